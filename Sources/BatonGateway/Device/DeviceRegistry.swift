import BatonProtocol
import NIOConcurrencyHelpers
import NIOCore

/// All attached devices of the node, by event loop: for counting, bounding and draining them.
package final class DeviceRegistry: Sendable {
  private struct Loop {
    let eventLoop: any EventLoop
    /// Of those that are not devices: theirs the ticker has.
    let drivers: NIOLoopBoundBox<[ObjectIdentifier: any DeviceDriver]>
    let ticker: NIOLoopBound<DeviceTicker>
    let isDrained: NIOLoopBoundBox<Bool>
  }

  private let loops: NIOLockedValueBox<[ObjectIdentifier: Loop]> = NIOLockedValueBox([:])
  /// Whether loops that come to it are drained from the start.
  private let isDraining = NIOLockedValueBox(false)
  private let counts = NIOLockedValueBox(Counts())
  package let limits: Limits
  /// How often each device is looked at.
  private let tick: TimeAmount

  /// Devices at a time.
  package struct Limits: Sendable, Equatable {
    package var all: Int
    package var perSession: Int
    package var perSubject: Int
    package var perTenant: Int

    package init(
      all: Int = 100_000, perSession: Int = 20_000, perSubject: Int = 1000, perTenant: Int = .max
    ) {
      (self.all, self.perSession, self.perSubject, self.perTenant) = (all, perSession, perSubject, perTenant)
    }
  }

  fileprivate struct Counts {
    var all = 0
    var sessions: [SessionName: Int] = [:]
    var subjects: [Subject: Int] = [:]
    var tenants: [String: Int] = [:]
  }

  /// Two tenants' subjects are two, whatever they are called.
  fileprivate struct Subject: Hashable {
    let tenant: String?
    let name: String
  }

  package init(limits: Limits, settings: DeviceSettings) {
    self.limits = limits
    tick = settings.tick
  }

  package var count: Int { counts.withLockedValue { $0.all } }

  /// - Throws: `Problem` 503 where the node holds all the devices that it may.
  package func reserve() throws(Problem) -> Place {
    let isFull = counts.withLockedValue { counts in
      if counts.all >= limits.all { return true }
      counts.all += 1
      return false
    }
    if isFull { throw .tooManyDevices }
    return Place(self)
  }

  /// What one device takes up of what the node has for all, until it leaves.
  package final class Place: @unchecked Sendable {
    private let registry: DeviceRegistry
    // Under the registry's lock.
    private var session: SessionName?
    private var subject: String?
    private var hasLeft = false

    fileprivate init(_ registry: DeviceRegistry) { self.registry = registry }

    /// - Throws: `Problem` 429 where the session, its tenant or the subject has all the devices that it may.
    package func take(_ session: SessionName, subject name: String?) throws(Problem) {
      let limits = registry.limits
      let tenant = session.tenant
      let subject = name.map { Subject(tenant: tenant, name: $0) }
      let problem: Problem? = registry.counts.withLockedValue { counts in
        if counts.sessions[session, default: 0] >= limits.perSession { return .tooManyDevicesOfSession }
        if let subject, counts.subjects[subject, default: 0] >= limits.perSubject { return .tooManyDevicesOfSubject }
        if let tenant, counts.tenants[tenant, default: 0] >= limits.perTenant { return .tooManyDevicesOfTenant }
        counts.sessions[session, default: 0] += 1
        if let tenant { counts.tenants[tenant, default: 0] += 1 }
        if let subject { counts.subjects[subject, default: 0] += 1 }
        (self.session, self.subject) = (session, name)
        return nil
      }
      if let problem { throw problem.about(session) }
    }

    deinit { leave() }

    package func leave() {
      registry.counts.withLockedValue { counts in
        guard !hasLeft else { return }
        hasLeft = true
        counts.all -= 1
        guard let session else { return }
        counts.sessions.decrement(session)
        if let tenant = session.tenant { counts.tenants.decrement(tenant) }
        if let subject { counts.subjects.decrement(Subject(tenant: session.tenant, name: subject)) }
      }
    }
  }

  /// Somebody who follows a session without being a device. To be followed by its start.
  package func insert(_ driver: any DeviceDriver, on eventLoop: any EventLoop) {
    loop(eventLoop).drivers.value[ObjectIdentifier(driver)] = driver
    starts(driver, on: eventLoop)
  }

  /// Who asked before a drain and comes now is drained, too.
  func starts(_ driver: any DeviceDriver, on eventLoop: any EventLoop) {
    guard loop(eventLoop).isDrained.value else { return }
    eventLoop.assumeIsolated().execute { driver.drain(retryAfterMs: DeviceRegistry.retryAfterMs) }
  }

  package func remove(_ driver: any DeviceDriver, on eventLoop: any EventLoop) {
    loop(eventLoop).drivers.value[ObjectIdentifier(driver)] = nil
  }

  /// On its event loop.
  func ticker(_ eventLoop: any EventLoop) -> DeviceTicker { loop(eventLoop).ticker.value }

  private func loop(_ eventLoop: any EventLoop) -> Loop {
    loops.withLockedValue { loops in
      if let loop = loops[ObjectIdentifier(eventLoop)] { return loop }
      let loop = Loop(
        eventLoop: eventLoop, drivers: NIOLoopBoundBox([:], eventLoop: eventLoop),
        ticker: NIOLoopBound(DeviceTicker(on: eventLoop, interval: tick), eventLoop: eventLoop),
        isDrained: NIOLoopBoundBox(isDraining.withLockedValue { $0 }, eventLoop: eventLoop))
      loops[ObjectIdentifier(eventLoop)] = loop
      return loop
    }
  }

  /// Tokens were revoked: who is attached by one is closed.
  func judgeAgain() {
    for loop in loops.withLockedValue({ Array($0.values) }) {
      loop.eventLoop.execute { loop.ticker.value.judgeAgain() }
    }
  }

  /// What a drained device is to wait before it comes back. The drain is spread already.
  static let retryAfterMs = 100

  /// Drains every device, spread evenly over `time`, so that the other nodes are not asked by all at once.
  package func drain(over time: TimeAmount) {
    let known = loops.withLockedValue { loops in
      isDraining.withLockedValue { $0 = true }
      return Array(loops.values)
    }
    for loop in known {
      loop.eventLoop.execute {
        loop.isDrained.value = true
        let drivers = loop.ticker.value.drivers + loop.drivers.value.values
        let step = drivers.isEmpty ? 0 : time.nanoseconds / Int64(drivers.count)
        for (index, driver) in drivers.enumerated() {
          loop.eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(step * Int64(index))) {
            driver.drain(retryAfterMs: DeviceRegistry.retryAfterMs)
          }
        }
      }
    }
  }
}

extension Dictionary where Value == Int {
  fileprivate mutating func decrement(_ key: Key) {
    guard let count = self[key] else { return }
    self[key] = count > 1 ? count - 1 : nil
  }
}
