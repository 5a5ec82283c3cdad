import BatonGateway
import NIOCore
import NIOPosix
import Testing

@Suite struct DeviceRegistryTests {
  private final class Driver: DeviceDriver {
    let drained: EventLoopPromise<Void>

    init(_ eventLoop: any EventLoop) {
      let drained = eventLoop.makePromise(of: Void.self)
      self.drained = drained
      eventLoop.scheduleTask(in: .seconds(20)) { drained.fail(ChannelError.connectTimeout(.seconds(20))) }
    }

    func start(_ wire: any DeviceWire) {}
    func pump() {}
    func received(_ message: DeviceMessage) -> Bool { false }
    func drain(retryAfterMs: Int) { drained.succeed() }
    func closed() {}
  }

  /// It had been let in before the drain began, and was still being attached.
  @Test(arguments: [false, true])
  func whoComesAfterADrainHasBegunIsDrained(onALoopThatHadDevices isKnown: Bool) async throws {
    let registry = DeviceRegistry(limits: .init(), settings: DeviceSettings())
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let (first, late) = (Driver(loop), Driver(loop))
    if isKnown { try await loop.submit { registry.insert(first, on: loop) }.get() }
    registry.drain(over: .zero)
    try await loop.submit { registry.insert(late, on: loop) }.get()
    try await late.drained.futureResult.get()
    if isKnown { try await first.drained.futureResult.get() } else { first.drained.succeed() }
  }
}
