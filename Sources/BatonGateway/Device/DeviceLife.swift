import BatonProtocol
import BatonWebSocket
import NIOCore

/// What both wires of a device have: its driver, its token and that token's end, regular looks at it, and its going, told
/// once. Lives on the device's event loop.
final class DeviceLife {
  let front: DeviceFront
  let session: SessionName
  let form: DeviceRequest.Wire
  let address: PeerAddress?
  let driver: any DeviceDriver
  @Boxed private(set) var identity: Identity?
  private var expiry: ExpiryWatch?
  /// The ticker's turn that it belongs to.
  fileprivate var slot = 0
  private var stall = StallWatch()
  private let ticker: DeviceTicker
  /// Until the end.
  private var wire: (any TickedWire)?
  private var place: DeviceRegistry.Place?

  init(
    _ request: DeviceRequest, _ driver: any DeviceDriver, _ place: DeviceRegistry.Place, front: DeviceFront,
    ticker: DeviceTicker
  ) {
    self.front = front
    self.ticker = ticker
    (session, form, address) = (request.attach.session, request.wire, request.address)
    self.driver = driver
    self.place = place
    identity = request.identity
  }

  func start(_ wire: any TickedWire, on eventLoop: any EventLoop) {
    self.wire = wire
    ticker.insert(self)
    driver.start(wire)
    watchExpiry(wire, on: eventLoop)
  }

  var settings: DeviceSettings { front.settings }

  /// The device sent a newer token.
  func renewed(_ identity: Identity, _ wire: any DeviceWire, on eventLoop: any EventLoop) {
    self.identity = identity
    watchExpiry(wire, on: eventLoop)
  }

  private func watchExpiry(_ wire: any DeviceWire, on eventLoop: any EventLoop) {
    guard let identity else { return }
    let isAskedFor = identity.credentials != nil && front.authenticator != nil
    let expiry = expiry ?? ExpiryWatch()
    self.expiry = expiry
    expiry.start(
      identity.expires, isRenewed: isAskedFor, on: eventLoop,
      soon: { [weak self, weak wire] left in
        guard let self, let wire else { return }
        if isAskedFor { askAgain(identity, wire, on: eventLoop) } else { wire.send(.expiring(inMs: left)) }
      },
      over: { [weak wire] in wire?.close(.unauthenticated, reason: "the token has expired") })
  }

  /// What the app says of the device now; where it says nothing, its word of before holds to its end.
  private func askAgain(_ identity: Identity, _ wire: any DeviceWire, on eventLoop: any EventLoop) {
    guard let authenticator = front.authenticator else { return }
    let bound = NIOLoopBound((self, wire), eventLoop: eventLoop)
    eventLoop.makeFutureWithTask { try await authenticator.renewed(identity, token: nil) }.whenComplete { result in
      let (life, wire) = bound.value
      guard life.place != nil, life.identity == identity else { return }
      let problem: Problem?
      switch result {
      case .success(let new):
        guard new.may(.read, life.session), new.subject == identity.subject else {
          return wire.close(.notAllowed, reason: "the app no longer allows this session")
        }
        if new.expires > identity.expires { return life.renewed(new, wire, on: eventLoop) }
        problem = nil
      case .failure(let error): problem = error as? Problem
      }
      switch problem?.status {
      case .unauthorized?: wire.close(.unauthenticated, reason: "the app does not know the device any more")
      case .forbidden?: wire.close(.notAllowed, reason: "the app no longer allows this session")
      default: wire.send(.expiring(inMs: Int(ExpiryWatch.left(identity.expires).nanoseconds / 1_000_000)))
      }
    }
  }

  /// Tokens were revoked.
  fileprivate func judgeAgain() {
    guard let identity else { return }
    if identity.isRevoked {
      wire?.close(.unauthenticated, reason: "the token was revoked")
    } else if !identity.may(.read, session) {
      wire?.close(.notAllowed, reason: "the token was revoked for this session")
    }
  }

  /// Looked at once a tick.
  func takesNothing(_ wire: some DeviceWire) -> Bool {
    stall.isOver(
      wire.bufferedBytes, isWritable: wire.isWritable, interval: settings.tick, limit: settings.maxStall)
  }

  private var facts: AuditLog.Facts {
    AuditLog.Facts(address: address, session: session, identity)
  }

  /// The wire closes the device.
  func closes(_ code: CloseCode, _ reason: String) {
    stopTicking()
    guard code == .unauthenticated || code == .notAllowed || code == .policyViolation else { return }
    front.audit?.closed(Int(code.rawValue), reason, facts)
  }

  /// The wire sends it: who may not, or does too much, is told.
  func sends(_ frame: ControlFrame) {
    guard let audit = front.audit, case .error(let code, _, _) = frame, code == "forbidden" || code == "rate_limited"
    else { return }
    audit.refused(.frameRefused(code), facts)
  }

  func stopTicking() { ticker.remove(self) }

  fileprivate func ticked() { wire?.ticked() }

  func end() {
    guard let place = place.take() else { return }
    stopTicking()
    wire = nil
    expiry?.cancel()
    driver.closed()
    front.left(place)
  }
}

/// Is looked at every `DeviceSettings.tick`.
protocol TickedWire: DeviceWire {
  func ticked()
}

/// Looks at each device of one event loop once in a while: one timer for all of them, which are spread over its turns. On
/// its event loop.
final class DeviceTicker {
  /// Turns in which all devices are looked at.
  private static let turns = 16

  private let eventLoop: any EventLoop
  private let step: TimeAmount
  private var devices: [[ObjectIdentifier: DeviceLife]] = Array(repeating: [:], count: DeviceTicker.turns)
  private var turn = 0
  private var next = 0
  private var count = 0
  private var isTicking = false

  /// - Parameter interval: between two looks at a device.
  init(on eventLoop: any EventLoop, interval: TimeAmount) {
    self.eventLoop = eventLoop
    step = .nanoseconds(max(interval.nanoseconds / Int64(DeviceTicker.turns), 1_000_000))
  }

  func insert(_ life: DeviceLife) {
    life.slot = next
    next = (next + 1) % DeviceTicker.turns
    devices[life.slot][ObjectIdentifier(life)] = life
    count += 1
    if !isTicking { tickLater() }
  }

  func remove(_ life: DeviceLife) {
    if devices[life.slot].removeValue(forKey: ObjectIdentifier(life)) != nil { count -= 1 }
  }

  var drivers: [any DeviceDriver] { devices.flatMap { $0.values.map(\.driver) } }

  /// Tokens were revoked: who is attached by one is closed.
  func judgeAgain() {
    for life in devices.flatMap({ Array($0.values) }) { life.judgeAgain() }
  }

  private func tickLater() {
    isTicking = true
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    eventLoop.scheduleTask(in: step) { bound.value.tick() }
  }

  private func tick() {
    isTicking = false
    for life in devices[turn].values { life.ticked() }
    turn = (turn + 1) % DeviceTicker.turns
    if count > 0 { tickLater() }
  }
}

/// Times and rates of the wires of devices.
package struct DeviceSettings: Sendable {
  package var pingInterval: TimeAmount
  package var maxStall: TimeAmount
  /// What event streams say as `retry:`, at the least. Firefox gives up for good after one refused attempt from another
  /// origin, so this is longer than a restart takes unless another node answers.
  package var retry: TimeAmount
  /// What one device may send; those of ten seconds may come at once.
  package var messages = Rate(50)
  package var pings = Rate(50)
  package var frames = Rate(1000)

  package init(
    pingInterval: TimeAmount = .seconds(25), maxStall: TimeAmount = .seconds(60), retry: TimeAmount = .seconds(5)
  ) {
    self.pingInterval = pingInterval
    self.maxStall = maxStall
    self.retry = retry
  }

  /// How often a wire looks at its device.
  var tick: TimeAmount { min(pingInterval, max(.nanoseconds(maxStall.nanoseconds / 4), .milliseconds(20))) }
}

/// Notices somebody who takes no bytes at all, looked at once an interval.
struct StallWatch {
  /// For who holds history while others wait for memory.
  static let limitWhenShort = TimeAmount.seconds(5)

  private var pending = 0
  private var stalled: TimeAmount = .zero

  /// - Parameter waiting: bytes that were written and have not left; asked for only where it counts.
  mutating func isOver(
    _ waiting: @autoclosure () -> Int, isWritable: Bool, interval: TimeAmount, limit: TimeAmount
  ) -> Bool {
    // Who takes bytes has few that wait.
    let now = isWritable ? 1 : waiting()
    defer { pending = now }
    guard !isWritable, now >= pending, pending > 0 else {
      stalled = .zero
      return false
    }
    stalled = stalled + interval
    return stalled >= limit
  }
}

extension Channel {
  /// What was written and has not left.
  var bufferedBytes: Int { (try? syncOptions?.getOption(.bufferedWritableBytes)) ?? 0 }
}
