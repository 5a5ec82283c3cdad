import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// Carries out what a device's cursor decides. Everything happens on the device's event loop.
final class AttachedDevice: DeviceDriver, @unchecked Sendable {
  private let hub: LoopHub
  private let room: Room
  private var cursor: Cursor
  private let form: DeviceRequest.Wire
  private var isPumping = false
  private var isClosed = false
  /// Commands of the device that Redis has not answered.
  private var pendingCommands: UInt8 = 0
  /// How long it can wait for what is new: its rollup window while it is live, but for what the tail's clock is late.
  /// Milliseconds.
  private var pace: Int32 = 0
  /// Nil before the device is let in, and when it is gone.
  private var wire: (any DeviceWire)?
  private var admission: EventLoopPromise<Admission>?
  /// What was decided before the device was let in.
  private var held: [Cursor.Step] = []
  /// The page that is being read, and how often the same one was asked for without getting on. 0: none is.
  private var pageTicket: UInt64 = 0
  private var patience = PagePatience()
  /// History that was written and has not left, and the bytes that waited when it was last looked at.
  private var charges: [MemoryCharge] = []
  private var stall = StallWatch()

  /// - Parameter gone: the connection has ended. Fails once who uses it tells that by `closed`.
  init(
    _ request: DeviceRequest, hub: LoopHub, admission: EventLoopPromise<Admission>, gone: EventLoopFuture<Void>
  ) {
    form = request.wire
    self.hub = hub
    self.admission = admission
    cursor = Cursor(request.attach)
    room = hub.room(request.attach.session)
    room.join(self)
    if case .window(let window) = request.attach.rollup { hub.tick(self, everyMilliseconds: window) }
    pump()
    gone.whenSuccess { self.closed() }
  }

  private var attach: AttachRequest { cursor.request }
  var paceMs: Int64 { Int64(pace) }

  // MARK: admission

  private func admit(_ admission: Admission) {
    self.admission?.succeed(admission)
    self.admission = nil
  }

  private func refuse(_ problem: Problem) {
    let promise = admission
    admission = nil
    closed()
    promise?.fail(problem)
  }

  /// Before the device is let in: server-sent events are answered 204 where nothing is left to be sent.
  private func hold(_ step: Cursor.Step) {
    if case .deliver(let delivery) = step, let only = attach.onlyResponse,
      !delivery.entries.contains(where: { $0.isOf(only) })
    {
      return
    }
    switch step {
    case .wrongType: return refuse(.wrongType(attach.session))
    case .unavailable: return refuse(.storeUnavailable)
    case .finish where form != .webSocket && form != .entries:
      admit(.finished)
      return closed()
    default: held.append(step)
    }
    switch step {
    case .attached where form == .webSocket || form == .entries || !attach.untilEnd:
      admit(.admitted(self))
    case .deliver, .reset, .stalled: admit(.admitted(self))
    default: break
    }
  }

  // MARK: DeviceDriver

  func start(_ wire: any DeviceWire) {
    self.wire = wire
    let steps = held
    held = []
    for step in steps { perform(step, wire) }
    pump()
    wire.flush()
  }

  func pump() {
    guard !isPumping, !isClosed else { return }
    isPumping = true
    defer { isPumping = false }
    // A flush can make the device writable again before it returns.
    while advance() { wire?.flush() }
    if wire?.isWritable != false { charges.removeAll() }
    if case .window(let window) = attach.rollup { setPace(cursor.isLive ? Int32(clamping: window) - 20 : 0) }
    // Nothing came that would end the wait for something to send.
    if admission != nil, cursor.isLive, !cursor.isFinishing { admit(.admitted(self)) }
  }

  /// The room's newest segment, where that is all there is to do for this device.
  ///
  /// - Parameters:
  ///   - start: the index of its first entry in the room's log.
  ///   - shared: its bytes, once a device of the room has asked for them.
  /// - Returns: false where nothing was done: it is to be pumped.
  func take(
    _ segment: Segment, at start: Int, _ log: SessionLog.Standing, _ shared: inout FrameBytes.Shared?
  ) -> Bool {
    guard let wire, !isPumping, !isClosed, charges.isEmpty, wire.isWritable,
      cursor.takesNewest(segment, at: start, log)
    else { return false }
    isPumping = true
    let delivery = Delivery(segment, 0..<segment.entries.count, joined: false)
    if form == .entries {
      write(delivery, wire)
    } else {
      let bytes = FrameBytes.of(delivery, form.encoding, only: attach.onlyResponse, hub.encodings, &shared)
      count(delivery, bytes)
      wire.writeAndFlush(bytes)
    }
    isPumping = false
    return true
  }

  private func write(_ delivery: Delivery, _ wire: any DeviceWire) {
    guard form == .entries else { return wire.write(bytes(of: delivery)) }
    hub.counters.entriesDelivered.add(UInt64(delivery.range.count))
    let entries = delivery.entries
    guard let only = attach.onlyResponse else { return wire.write(entries: entries) }
    wire.write(entries: Entries(entries.filter { $0.isOf(only) }))
  }

  private func bytes(of delivery: Delivery) -> ByteBuffer {
    let bytes = FrameBytes.of(delivery, form.encoding, only: attach.onlyResponse, hub.encodings)
    count(delivery, bytes)
    return bytes
  }

  private func count(_ delivery: Delivery, _ bytes: ByteBuffer) {
    hub.counters.entriesDelivered.add(UInt64(delivery.range.count))
    hub.counters.bytesSent.add(UInt64(bytes.readableBytes))
  }

  /// As far as the device takes bytes; false where nothing was written.
  private func advance() -> Bool {
    var wrote = false
    if wire?.isWritable == true { charges.removeAll() }
    while !isClosed, wire?.isWritable ?? (admission != nil), let step = cursor.next(room.log) {
      switch step {
      case .read(let page): read(page)
      case .touch: touch()
      default:
        if let wire {
          perform(step, wire)
          wrote = true
        } else {
          hold(step)
        }
      }
    }
    return wrote
  }

  private func setPace(_ pace: Int32) {
    guard pace != self.pace, !isClosed else { return }
    let wasHasty = self.pace == 0
    self.pace = pace
    if wasHasty != (pace == 0) { room.paceChanged(isHasty: pace == 0) }
  }

  func windowPassed() {
    cursor.isDue = true
    pump()
  }

  /// Looked at once a second while history waits for memory: whoever holds some and takes nothing lets go of it, so that a
  /// device that does not read delays no other.
  func giveWay() {
    guard let wire, !charges.isEmpty,
      stall.isOver(
        wire.bufferedBytes, isWritable: wire.isWritable, interval: .seconds(1),
        limit: StallWatch.limitWhenShort)
    else { return }
    charges.removeAll()
    wire.close(.overloaded, reason: "takes nothing while others wait")
  }

  func received(_ message: DeviceMessage) -> Bool {
    do throws(DeviceCommand.Refusal) {
      guard let command = try DeviceCommand(message, attach, wire?.identity) else { return false }
      guard pendingCommands < DeviceCommand.maxPending else {
        wire?.send(command.rateLimited)
        return true
      }
      pendingCommands += 1
      let session = attach.session
      hub.store.eventLoop.execute { [store = hub.store, index = hub.index] in
        func answer(_ frame: ControlFrame) {
          self.hub.eventLoop.execute {
            self.pendingCommands -= 1
            self.wire?.send(frame)
          }
        }
        func run() {
          store.run(.put(command.put), session) { result in
            answer((try? result.get()).map(command.answer) ?? command.unavailable)
          }
        }
        guard let index else { return run() }
        index.admit(session) { result in
          switch result {
          case .success(true): run()
          case .success(false):
            self.hub.metrics.exceeded(.sessionsPerTenant)
            answer(command.rateLimited)
          case .failure: answer(command.unavailable)
          }
        }
      }
    } catch {
      wire?.send(error.frame)
    }
    return true
  }

  func drain(retryAfterMs: Int) {
    guard let wire, !isClosed else { return }
    wire.send(.draining(retryAfterMs: retryAfterMs))
    wire.close(.goingAway, reason: "the node goes away")
  }

  func closed() {
    guard !isClosed else { return }
    isClosed = true
    wire = nil
    charges.removeAll()
    held.removeAll()
    if pageTicket != 0 {
      let (session, ticket) = (attach.session, pageTicket)
      hub.store.eventLoop.execute { [store = hub.store] in store.abandon(ticket, session: session) }
    }
    admission?.fail(Problem.storeUnavailable)
    admission = nil
    if case .window(let window) = attach.rollup { hub.forget(self, everyMilliseconds: window) }
    // Not while the room walks over its devices.
    hub.eventLoop.execute { self.room.leave(self) }
  }

  // MARK: steps

  private func read(_ page: PageRequest) {
    let pause = patience.pause(before: page, at: Int64(hub.eventLoop.now.uptimeNanoseconds / 1_000_000))
    guard pause > 0 else { return ask(page) }
    hub.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(pause)) {
      if !self.isClosed { self.ask(page) }
    }
  }

  private func ask(_ page: PageRequest) {
    let waits = cursor.isAttached
    let ticket = hub.store.drawTicket()
    pageTicket = ticket
    hub.store.eventLoop.execute { [store = hub.store] in
      store.read(page, id: ticket, waits: waits) { outcome in
        self.hub.eventLoop.execute {
          guard !self.isClosed else { return }
          self.pageTicket = 0
          if case .refused(let reason) = outcome, self.admission != nil { return self.refuse(.refusedByStore(reason)) }
          self.cursor.pageArrived(outcome)
          self.pump()
        }
      }
    }
  }

  private func touch() {
    let ticket = hub.store.drawTicket()
    cursor.touched(ticket)
    let session = attach.session
    hub.store.eventLoop.execute { [store = hub.store] in store.touch(session, ticket: ticket) }
  }

  private func perform(_ step: Cursor.Step, _ wire: any DeviceWire) {
    switch step {
    case .deliver(let delivery):
      write(delivery, wire)
      if let charge = delivery.segment.charge { charges.append(charge) }
    case .attached(let offset, let first, let last, let recovered):
      hub.metrics.resumed(offset == .zero ? .waiting : .history)
      wire.write(
        .attached(
          ControlFrame.Attached(
            session: attach.session.description, device: attach.device, node: hub.node.name,
            offset: offset, recovered: recovered, first: first, last: last, pingMs: hub.node.pingMs,
            features: hub.node.features(for: wire.identity, in: attach.session))))
    case .reset(let reset):
      hub.metrics.reset(reset.reason)
      hub.metrics.resumed(.reset)
      wire.write(.reset(reset))
    case .behind: wire.write(.behind)
    case .live(let offset): wire.write(.live(offset))
    case .stalled: wire.write(.stalled)
    case .finish: wire.close(.normal, reason: "done")
    case .wrongType:
      wire.write(.error(code: "wrong_type", message: "The session's key holds another type now.", key: nil))
      wire.close(.internalError, reason: "wrong type")
    case .unavailable: wire.close(.overloaded, reason: "the store is out of reach")
    case .read, .touch: break
    }
  }
}

extension DeviceRequest.Wire {
  fileprivate var encoding: Segment.Encoding.Wire {
    switch self {
    case .webSocket: .webSocket
    case .events, .entries: .events
    case .text: .text
    }
  }
}
