@testable import BatonProtocol
@testable import BatonSession

/// What a gateway's drivers do, over the model: they carry actions out and bring answers back.
extension Fleet {
  func start(_ node: SimulatedNode) {
    plan(after: dice.roll(0...50)) { [self] in connect(node) }
    tick(node)
  }

  func tick(_ node: SimulatedNode) {
    plan(after: node.tail.source == .poll ? 20 : 250) { [self] in
      guard node.isAlive else { return }
      perform(node.tail.tick(now: schedule.now), on: node)
      for device in devices where device.node === node {
        device.cursor?.isDue = true
        pump(device, node)
      }
      tick(node)
    }
  }

  func connect(_ node: SimulatedNode) {
    guard node.isAlive, !node.isConnected else { return }
    node.isConnected = true
    node.armed = []
    perform(node.tail.connected(source: .tracking), on: node)
    sendPages(node)
  }

  func disconnect(_ node: SimulatedNode) {
    guard node.isConnected else { return }
    node.isConnected = false
    node.tailLane.generation += 1
    node.noticeLane.generation += 1
    node.tail.disconnected(at: schedule.now)
    plan(after: dice.roll(1...4000)) { [self] in connect(node) }
  }

  func perform(_ actions: [Tail.Action], on node: SimulatedNode) {
    for action in actions {
      switch action {
      case .read(let reads):
        for read in reads { send(read, node) }
      case .tell(let session, let update):
        for room in node.rooms[session] ?? [] { tell(room, update, node) }
      case .probeNotices(let token):
        let generation = node.noticeLane.generation
        schedule.at(node.noticeLane.arrival(schedule.now + delay())) { [self] in
          guard node.isAlive, node.noticeLane.generation == generation else { return }
          perform(node.tail.noticesAnswered(token), on: node)
        }
      case .sourceChanged: break
      }
    }
  }

  private func send(_ read: TailRead, _ node: SimulatedNode) {
    let generation = node.tailLane.generation
    onRedis(after: node.tailLane.arrival(schedule.now + delay())) { [self] in
      guard node.isAlive, node.tailLane.generation == generation else { return }
      node.armed.insert(read.session)
      let outcome = redis.read(read)
      schedule.at(node.tailLane.arrival(schedule.now + delay())) { [self] in
        guard node.isAlive, node.tailLane.generation == generation else { return }
        perform(node.tail.completed(read.session, outcome), on: node)
      }
    }
  }

  /// A paused Redis keeps commands waiting.
  private func onRedis(after time: Int64, _ happen: @escaping () -> Void) {
    schedule.at(time) { [self] in
      if schedule.now < pausedUntil { schedule.at(pausedUntil, happen) } else { happen() }
    }
  }

  private func tell(_ room: SimulatedRoom, _ update: TailUpdate, _ node: SimulatedNode) {
    schedule.at(room.lane.arrival(schedule.now + Int64(dice.roll(0...2)))) { [self] in
      room.log.apply(update)
      room.log.willShrink(toBytes: 6000)
      for device in room.devices { pump(device, node) }
      room.log.shrink(toBytes: 6000)
    }
  }

  // MARK: history

  private func sendPages(_ node: SimulatedNode) {
    guard node.isConnected else { return }
    while let request = node.pages.next() {
      onRedis(after: schedule.now + delay()) { [self] in
        var request = request
        let sent = request
        request.limit = min(request.limit, pageLimit)
        let outcome = dice.chance(1) && !isCalm ? .unavailable : redis.page(request)
        schedule.at(schedule.now + delay()) { [self] in
          for (device, generation) in node.pages.answered(sent) where device.generation == generation {
            device.cursor?.pageArrived(outcome)
            pump(device, node)
          }
          sendPages(node)
        }
      }
    }
  }

  // MARK: devices

  func attach(_ device: SimulatedDevice) {
    let alive = nodes.filter(\.isAlive)
    guard device.node == nil, !device.isClosed, !alive.isEmpty else { return }
    let node = alive[dice.roll(0...alive.count - 1)]
    device.node = node
    device.generation += 1
    device.anewAt = schedule.now
    device.loop = dice.roll(0...1)
    device.sent = []
    device.wantsReset = false
    device.isFresh = device.holds == nil
    device.promised = redis.stream(device.session)?.entries.last?.entry.id ?? .zero
    if device.followsOne {
      // Every attach begins with the response's first entry.
      device.forget()
      device.wanted = dice.chance(30) ? device.wanted ?? "r0" : responses[device.session]?.name ?? "r0"
    }
    device.cursor = Cursor(request(for: device))
    let room: SimulatedRoom
    if let known = node.rooms[device.session]?.first(where: { $0.loop == device.loop }) {
      room = known
    } else {
      room = SimulatedRoom(device.session, device.loop)
      node.rooms[device.session, default: []].append(room)
      if node.rooms[device.session]?.count == 2 { tally.bothLoops += 1 }
      if let end = node.tail.end(of: device.session) { tell(room, .opened(base: end), node) }
      perform(node.tail.follow(device.session), on: node)
    }
    room.devices.append(device)
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

  func leave(_ device: SimulatedDevice, _ node: SimulatedNode) {
    guard let room = node.rooms[device.session]?.first(where: { $0.loop == device.loop }) else { return }
    room.devices.removeAll { $0 === device }
    guard room.devices.isEmpty else { return }
    node.rooms[device.session]?.removeAll { $0 === room }
    if node.rooms[device.session]?.isEmpty == true {
      node.rooms[device.session] = nil
      node.tail.unfollow(device.session)
    }
  }

  func pump(_ device: SimulatedDevice, _ node: SimulatedNode) {
    guard let room = node.rooms[device.session]?.first(where: { $0.loop == device.loop }) else { return }
    while device.takes, device.node === node, complaints.isEmpty, let step = device.cursor?.next(room.log) {
      switch step {
      case .read(let request):
        node.pages.ask(request, (device, device.generation))
        sendPages(node)
      case .touch:
        node.tickets += 1
        let ticket = node.tickets
        device.cursor?.touched(ticket)
        plan(after: dice.roll(0...2)) { [self] in
          if node.isAlive { perform(node.tail.touch(device.session, ticket: ticket), on: node) }
        }
      case .wrongType, .unavailable:
        device.forget()
        drop(device)
      case .finish:
        tally.finished += 1
        if let history = histories[device.session],
          let words = history.complaintAboutFinish(of: device, redis.stream(device.session))
        {
          return complain(device, words)
        }
        drop(device)
        if isCalm { device.isClosed = true }
      default: judge(device, step)
      }
    }
  }
}
