import NIOConcurrencyHelpers
import NIOCore

/// All attached devices of the node, by event loop: for counting, bounding and draining them.
package final class DeviceRegistry: Sendable {
  private struct Loop {
    let eventLoop: any EventLoop
    let drivers: NIOLoopBoundBox<[ObjectIdentifier: any DeviceDriver]>
    let ticker: NIOLoopBound<DeviceTicker>
  }

  private let loops: NIOLockedValueBox<[ObjectIdentifier: Loop]> = NIOLockedValueBox([:])
  private let total = NIOLockedValueBox(0)
  package let limit: Int
  /// How often each device is looked at.
  private let tick: TimeAmount

  package init(limit: Int, settings: DeviceSettings) {
    self.limit = limit
    tick = settings.tick
  }

  package var count: Int { total.withLockedValue { $0 } }

  /// Takes one of the places; false where none is left. `leave` gives it back.
  package func reserve() -> Bool {
    total.withLockedValue { count in
      if count >= limit { return false }
      count += 1
      return true
    }
  }

  package func leave() { total.withLockedValue { $0 -= 1 } }

  package func insert(_ driver: any DeviceDriver, on eventLoop: any EventLoop) {
    box(eventLoop).value[ObjectIdentifier(driver)] = driver
  }

  package func remove(_ driver: any DeviceDriver, on eventLoop: any EventLoop) {
    box(eventLoop).value[ObjectIdentifier(driver)] = nil
  }

  /// On its event loop.
  func ticker(_ eventLoop: any EventLoop) -> DeviceTicker { loop(eventLoop).ticker.value }

  private func box(_ eventLoop: any EventLoop) -> NIOLoopBoundBox<[ObjectIdentifier: any DeviceDriver]> {
    loop(eventLoop).drivers
  }

  private func loop(_ eventLoop: any EventLoop) -> Loop {
    loops.withLockedValue { loops in
      if let loop = loops[ObjectIdentifier(eventLoop)] { return loop }
      let loop = Loop(
        eventLoop: eventLoop, drivers: NIOLoopBoundBox([:], eventLoop: eventLoop),
        ticker: NIOLoopBound(DeviceTicker(on: eventLoop, interval: tick), eventLoop: eventLoop))
      loops[ObjectIdentifier(eventLoop)] = loop
      return loop
    }
  }

  /// What a drained device is to wait before it comes back. The drain is spread already.
  static let retryAfterMs = 100

  /// Drains every device, spread evenly over `time`, so that the other nodes are not asked by all at once.
  package func drain(over time: TimeAmount) {
    for loop in loops.withLockedValue({ Array($0.values) }) {
      loop.eventLoop.execute {
        let drivers = Array(loop.drivers.value.values)
        let step = drivers.isEmpty ? 0 : time.nanoseconds / Int64(drivers.count)
        for (index, driver) in drivers.enumerated() {
          let key = ObjectIdentifier(driver)
          loop.eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(step * Int64(index))) {
            loop.drivers.value[key]?.drain(retryAfterMs: DeviceRegistry.retryAfterMs)
          }
        }
      }
    }
  }
}
