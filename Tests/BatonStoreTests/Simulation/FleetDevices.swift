import BatonProtocol
import NIOCore
import TestSupport

@testable import BatonSession
@testable import BatonStore

/// Devices and the rooms they are in; and what they are told, judged.
extension Fleet {
  /// Rollup windows, of all devices at once.
  func tick() {
    plan(after: 100) { [self] in
      for device in devices {
        guard let node = device.node else { continue }
        device.cursor?.isDue = true
        pump(device, node)
      }
      tick()
    }
  }

  func tell(_ room: SimulatedRoom, _ update: TailUpdate, _ node: SimulatedNode) {
    room.arrival = max(room.arrival, now + Int64(dice.roll(0...2)))
    network.at(room.arrival) { [self] in
      guard node.isAlive else { return }
      room.log.apply(update)
      if case .appended = update {} else { note(room.session, "node \(node.number) tells \(update)") }
      room.log.willShrink(toBytes: 6000)
      for device in room.devices where !take(update, device, room) { pump(device, node) }
      room.log.shrink(toBytes: 6000)
    }
  }

  /// Attaches, and sooner or later drops and comes back.
  func live(_ device: SimulatedDevice) {
    attach(device)
    if isCalm { return }
    plan(after: dice.roll(100...60_000)) { [self] in
      if isCalm || device.isClosed { return }
      drop(device)
      plan(after: dice.roll(0...4000)) { [self] in live(device) }
    }
  }

  func drop(_ device: SimulatedDevice) {
    device.generation += 1
    device.cursor = nil
    device.isLive = false
    guard let node = device.node else { return }
    device.node = nil
    if let ticket = device.pageTicket, node.isAlive { node.store?.abandon(ticket, session: device.session) }
    device.pageTicket = nil
    leave(device, node)
    let generation = device.generation
    plan(after: dice.roll(10...2000)) { [self] in
      if device.node == nil, device.generation == generation, !device.isClosed { attach(device) }
    }
  }

  func attach(_ device: SimulatedDevice) {
    let alive = nodes.filter(\.isAlive)
    guard device.node == nil, !device.isClosed, !alive.isEmpty else { return }
    let node = alive[dice.roll(0...alive.count - 1)]
    device.node = node
    device.generation += 1
    device.anewAt = now
    device.attachedAt = now
    device.loop = dice.roll(0...1)
    device.sent = []
    device.overdue = []
    device.wantsReset = false
    device.isFresh = device.holds == nil
    device.promised = stream(device.session)?.entries.last?.id ?? .zero
    if device.followsOne {
      // Every attach begins with the response's first entry.
      device.forget()
      device.wanted = dice.chance(30) ? device.wanted ?? "r0" : responses[device.session]?.name ?? "r0"
    }
    device.cursor = Cursor(request(for: device))
    device.patience = PagePatience()
    let room: SimulatedRoom
    if let known = node.rooms[device.session]?.first(where: { $0.loop == device.loop }) {
      room = known
    } else {
      room = SimulatedRoom(device.session, device.loop)
      node.rooms[device.session, default: []].append(room)
      if node.rooms[device.session]?.count == 2 { tally.bothLoops += 1 }
      for update in node.store?.follow(device.session) ?? [] {
        if case .held(true) = update {
          device.overdue = overdueLeases(of: device.session)
          if !device.overdue.isEmpty { tally.overdue += 1 }
        }
        tell(room, update, node)
      }
    }
    room.devices.append(device)
    // As though nobody was in a hurry now and then; a promise is kept all the same.
    if dice.chance(20) { node.store?.pace(device.session, milliseconds: [0, 80, 230][dice.roll(0...2)]) }
    pump(device, node)
  }

  private func request(for device: SimulatedDevice) -> AttachRequest {
    var start = AttachRequest.Start.after(device.offset ?? .zero)
    if device.followsOne {
      start = .response(device.wanted ?? "r0")
    } else if var offset = device.offset, offset != .zero {
      if device.number % 5 == 4, dice.chance(20), let check = offset.check {
        offset.check = check ^ 1
        device.wantsReset = true
        start = .after(offset)
      }
    } else if device.offset == nil {
      start = [.after(.zero), .after(.zero), .end, .newest(dice.roll(1...30))][dice.roll(0...3)]
    }
    let rollup: AttachRequest.Rollup = [.auto, .off, .window(100)][device.number % 3]
    return AttachRequest(
      session: device.session, start: start, rollup: rollup, untilEnd: device.untilEnd,
      device: "d\(device.number)")
  }

  private func leave(_ device: SimulatedDevice, _ node: SimulatedNode) {
    guard let room = node.rooms[device.session]?.first(where: { $0.loop == device.loop }) else { return }
    room.devices.removeAll { $0 === device }
    guard room.devices.isEmpty else { return }
    node.rooms[device.session]?.removeAll { $0 === room }
    if node.rooms[device.session]?.isEmpty == true {
      node.rooms[device.session] = nil
      if node.isAlive { node.store?.unfollow(device.session) }
    }
  }

  /// The newest segment in one call, as a gateway's room does it.
  private func take(_ update: TailUpdate, _ device: SimulatedDevice, _ room: SimulatedRoom) -> Bool {
    guard case .appended(let segment) = update, device.takes, complaints.isEmpty,
      device.cursor?.takesNewest(segment, at: room.log.next - segment.entries.count, room.log.standing) == true
    else { return false }
    tally.takenAtOnce += 1
    judge(device, .deliver(Delivery(segment, 0..<segment.entries.count, joined: false)))
    return true
  }

  func pump(_ device: SimulatedDevice, _ node: SimulatedNode) {
    guard let room = node.rooms[device.session]?.first(where: { $0.loop == device.loop }) else { return }
    while device.takes, device.node === node, complaints.isEmpty, let step = device.cursor?.next(room.log) {
      switch step {
      case .read(let request): read(request, device, node)
      case .touch:
        guard let ticket = node.store?.drawTicket() else { return }
        device.cursor?.touched(ticket)
        device.note("  touches \(ticket)", at: now)
        plan(after: dice.roll(0...2)) { [self] in
          if node.isAlive, complaints.isEmpty { node.store?.touch(device.session, ticket: ticket) }
        }
      case .wrongType:
        device.forget()
        drop(device)
      case .unavailable:
        device.tell(step, at: now)
        drop(device)
      case .finish:
        tally.finished += 1
        if let words = histories[device.session]?.complaintAboutFinish(of: device, stream(device.session)) {
          return complain(words, device)
        }
        drop(device)
        if isCalm { device.isClosed = true }
      default: judge(device, step)
      }
    }
  }

  private func read(_ request: PageRequest, _ device: SimulatedDevice, _ node: SimulatedNode) {
    let pause = Int(device.patience.pause(before: request, at: now))
    let (generation, waits) = (device.generation, device.cursor?.isAttached ?? false)
    plan(after: pause) { [self] in
      guard node.isAlive, device.generation == generation, let ticket = node.store?.drawTicket() else { return }
      device.pageTicket = ticket
      device.note("  asks for \(request.span) and \(request.limit)", at: now)
      node.store?.read(request, id: ticket, waits: waits) { [self] outcome in
        plan(after: dice.roll(0...2)) { [self] in
          guard device.generation == generation, device.pageTicket == ticket else { return }
          device.pageTicket = nil
          if case .page = outcome {} else { device.note("  is answered \(outcome)", at: now) }
          device.cursor?.pageArrived(outcome)
          pump(device, node)
        }
      }
    }
  }

  // MARK: the judge

  private func judge(_ device: SimulatedDevice, _ step: Cursor.Step) {
    guard let history = histories[device.session] else { return }
    device.tell(step, at: now)
    switch step {
    case .deliver(let delivery): judge(device, delivery, history)
    case .attached(let offset, _, _, let recovered):
      if let asked = device.offset, stream(device.session)?.entries.contains(where: { $0.id == asked.id }) != true {
        // Where the entry is gone its check proves nothing, either way.
        device.wantsReset = false
      }
      if recovered, device.wantsReset || device.offset ?? .zero == .zero { complain("recovered what is lost", device) }
      device.beginsAnew(retained(device.session))
      device.sawEnd =
        device.untilEnd && offset.id == device.offset?.id && history.entry(offset)?.endsResponse == true
      device.place = offset.id
      if let holds = device.holds, offset.id < holds.id, history.wasDeleted(holds), let entry = history.entry(offset) {
        // It takes the offset as its own: should a restore bring the deleted entry back, it comes again (section 4).
        device.holds = entry
      }
      if let holds = device.holds, stream(device.session)?.lastGenerated == holds.id,
        history.serial(holds.offset).map({ history.lineages.last?.contains($0) }) != true
      {
        // Another history has given out the same id last, and its entry is gone: nothing can tell them apart (section 4).
        device.holds = history.entry(offset)
        device.heldBefore = nil
      }
      if device.offset == nil {
        device.offset = offset
        if offset != .zero {
          device.holds = history.entry(offset)
          if device.holds == nil { complain("attached at \(offset), which never was", device) }
          device.isFresh = false
        }
      }
    case .reset(let reset):
      tally.resets += 1
      device.beginsAnew(retained(device.session))
      device.anewAt = now
      device.wantsReset = false
      // Before Redis 7 nothing can prove to somebody who waits at the start that nothing was missed.
      let isProvable = weather.countsAdded || device.holds != nil
      if !history.wasDisturbed, isProvable, device.number % 5 != 4 {
        complain("reset \(reset.reason) for nothing", device)
      }
      if reset.from != .zero, !device.sent.contains(reset.from) {
        complain("reset from \(reset.from), which it never had", device)
      }
      device.offset = reset.offset
      device.place = reset.offset.id
      device.isFresh = reset.offset == .zero
      (device.isLive, device.fellBehindAt) = (false, now)
      device.holds = history.entry(reset.offset)
      device.heldBefore = nil
    case .live(let offset):
      if device.isLive { complain("live twice", device) }
      device.isLive = true
      device.isFresh = false
      device.liveAt = now
      device.place = max(device.place, offset.id)
      if let end = retained(device.session).first(where: {
        $0.endsResponse && $0.id > device.place && device.overdue.contains($0.response ?? "")
      }), excusedUntil < now, now > wrongUntil, movingUntil[device.session] ?? 0 < now {
        complain("live at \(offset), before it was told that the producer of \(end.response ?? "") is lost", device)
      }
      guard device.promised > offset.id, let stream = stream(device.session) else { return }
      if let last = stream.entries.first(where: { $0.id == device.promised }), last.id > offset.id,
        histories[device.session]?.lineages.last?.contains(last.serial) == true,
        retained(device.session).contains(where: { $0.offset == offset }),
        // A master that has not heard that it is none any more knows no better.
        now > wrongUntil
      {
        complain("live at \(offset), but \(device.promised) was there before it came", device)
      }
    case .behind: (device.isLive, device.fellBehindAt) = (false, now)
    case .stalled: device.isLive = false
    default: break
    }
  }

  private func judge(_ device: SimulatedDevice, _ delivery: Delivery, _ history: History) {
    if dice.chance(5), let words = FrameJudge.complaint(delivery, counting: &tally.frames) {
      return complain(words, device)
    }
    for entry in delivery.entries {
      tally.delivered += 1
      device.noteEnds(entry)
      if device.wantsReset { return complain("a forged check was taken for true", device) }
      var words = history.complaint(
        after: device.holds, next: entry, since: device.anewAt, excused: device.isFresh ? now : device.liveAt)
      if words != nil, let holds = device.holds, history.wasDeleted(holds), let held = device.heldBefore {
        words = history.complaint(after: held, next: entry, excused: -1)
      }
      if let words { return complain(words, device) }
      if let holds = device.holds, !history.wasDeleted(holds) { device.heldBefore = holds }
      device.holds = entry
      device.offset = entry.offset
      device.place = entry.id
      device.isFresh = false
    }
    EntryFrames.runs(delivery.entries, joined: delivery.joined) { _, last, _ in device.sent.insert(last.offset) }
  }
}
