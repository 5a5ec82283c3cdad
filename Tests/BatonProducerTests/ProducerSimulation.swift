import NIOCore
import TestSupport

@testable import BatonProducer
@testable import BatonProtocol
@testable import BatonSession
@testable import BatonStore

/// Producers, gateways that watch leases, and a model of the script, driven by one seed through what can go wrong.
final class ProducerSimulation {
  struct Weather: Sendable {
    /// Several producers of one response.
    var hasRivals = false
    /// The session is deleted, by command or by hand.
    var isDeleted = false
    /// Redis loses a tail, or everything.
    var losesData = true
    var crashes = false
    /// Producers stand still for up to 40 s.
    var freezes = false
  }

  final class SimulatedProducer {
    let name: String
    var openedAt: Int64?
    var writer: ResponseWriter
    /// What it said at each number.
    var said: [UInt64: String] = [:]
    var ending: ResponseState?
    var toSay: Int
    var connection = 0
    var isConnected = false
    var hasCrashed = false
    var frozenUntil: Int64 = 0
    var wasFrozen = false
    /// When Redis had confirmed its end.
    var endedAt: Int64?

    init(_ name: String, _ writer: ResponseWriter, toSay: Int) {
      (self.name, self.writer, self.toSay) = (name, writer, toSay)
    }
  }

  final class SimulatedGateway {
    var watch = LeaseWatch()
    var connection = 0
  }

  static let trouble: Int64 = 60_000
  static let calm: Int64 = 200_000

  let weather: Weather
  private(set) var complaints: [String] = []
  private var dice: Dice
  private var time: Int64 = 0
  private var events: [(at: Int64, serial: Int, action: () -> Void)] = []
  private var serial = 0
  private var master: ModelScript
  /// What a replica may still have: the states of the last seconds.
  private var past: [(at: Int64, state: ModelScript)] = []
  /// Connections of an earlier master reach nobody.
  private var reign = 0
  private var producers: [SimulatedProducer] = []
  private var gateways = [SimulatedGateway(), SimulatedGateway()]
  private var lostAt: Int64 = -1
  private var deletedAt: Int64 = -1
  private(set) var expiries = 0
  private(set) var steps = 0

  init(seed: UInt64, weather: Weather, fault: ModelScript.Fault? = nil) {
    dice = Dice(seed: seed)
    self.weather = weather
    master = ModelScript(fault: fault)
  }

  func run() {
    produce()
    for gateway in gateways { look(gateway) }
    plan(dice.roll(500...3000)) { self.makeTrouble() }
    while let next = events.popLast(), next.at <= Self.calm {
      time = next.at
      steps += 1
      next.action()
    }
    judge()
  }

  private var now: NIODeadline { .uptimeNanoseconds(UInt64(1_000_000_000 + time * 1_000_000)) }

  private func plan(_ delay: Int64, _ action: @escaping () -> Void) {
    serial += 1
    let event = (at: time + delay, serial: serial, action: action)
    let index = events.firstIndex { ($0.at, $0.serial) < (event.at, event.serial) } ?? events.count
    events.insert(event, at: index)
  }

  // MARK: producers

  private func produce() {
    let name = "p\(producers.count)"
    var options = ResponseWriter.Options()
    options.keep = 1 << 20
    let producer = SimulatedProducer(
      name, ResponseWriter(response: "r", writer: name, options: options, now: now), toSay: Int(dice.roll(20...1500)))
    producers.append(producer)
    connect(producer)
    speak(producer)
  }

  private func connect(_ producer: SimulatedProducer) {
    awake(producer) { [self] in
      producer.isConnected = true
      producer.connection += 1
      producer.writer.connected(now: now)
      pump(producer)
    }
  }

  private func drop(_ producer: SimulatedProducer) {
    guard producer.isConnected else { return }
    producer.connection += 1
    producer.isConnected = false
    awake(producer) {
      if !producer.isConnected { producer.writer.disconnected("dropped") }
    }
    plan(dice.roll(10...4000)) { self.connect(producer) }
  }

  /// At once, or when it thaws; never after a crash.
  private func awake(_ producer: SimulatedProducer, _ action: @escaping () -> Void) {
    if producer.hasCrashed { return }
    if producer.frozenUntil > time {
      plan(producer.frozenUntil - time) { self.awake(producer, action) }
    } else {
      action()
    }
  }

  private func speak(_ producer: SimulatedProducer) {
    plan(dice.roll(1...200)) { [self] in
      awake(producer) { [self] in
        if producer.writer.phase == .open, producer.ending == nil, producer.writer.hasRoom { say(producer) }
        pump(producer)
        if producer.ending == nil { speak(producer) }
      }
    }
  }

  private func say(_ producer: SimulatedProducer) {
    if producer.toSay == 0 {
      let ending: ResponseState = dice.chance(20) ? .cancelled : .end
      producer.ending = ending
      return producer.writer.ended(ending, [], now: now)
    }
    for _ in 0..<min(producer.toSay, Int(dice.roll(1...5))) {
      producer.toSay -= 1
      let n = producer.writer.items.last + 1
      let text = "\(producer.name):\(n);"
      producer.said[n] = text
      if dice.chance(5) {
        producer.writer.appended(.event([Entry.Field("event", "tool"), Entry.Field("data", text)]), now: now)
      } else {
        producer.writer.appended(.delta(ByteBuffer(string: text)), now: now)
      }
    }
  }

  private func pump(_ producer: SimulatedProducer) {
    if let call = producer.writer.next(now: now) { send(call, producer) }
    if producer.openedAt == nil, producer.writer.phase != .opening { producer.openedAt = time }
    if producer.endedAt == nil, producer.writer.phase == .ended || producer.writer.phase == .released {
      producer.endedAt = time
    }
    if let wake = producer.writer.wakeAt {
      let delay = max((wake - now).nanoseconds / 1_000_000 + 1, 1)
      plan(delay) { self.awake(producer) { self.pumpIfDue(producer) } }
    }
  }

  private func pumpIfDue(_ producer: SimulatedProducer) {
    guard let wake = producer.writer.wakeAt, wake <= now else { return }
    pump(producer)
  }

  private func send(_ call: AppendCall, _ producer: SimulatedProducer) {
    let (connection, reign) = (producer.connection, reign)
    let isLost = dice.chance(2)
    // A request that is on its way when its connection breaks may still arrive.
    let isGhost = dice.chance(50)
    plan(dice.roll(1...30)) { [self] in
      guard self.reign == reign, producer.connection == connection || isGhost else { return }
      let reply = execute(call)
      plan(dice.roll(1...30)) { [self] in
        guard producer.connection == connection else { return }
        if isLost { return drop(producer) }
        awake(producer) { [self] in
          guard producer.connection == connection else { return }
          guard let reply = WriteReply(reply) else { return complain("reply \(reply)") }
          producer.writer.replied(reply, now: now)
          pump(producer)
        }
      }
    }
  }

  private func execute(_ call: AppendCall) -> [String] {
    past.append((time, master))
    return master.run(call)
  }

  // MARK: gateways

  private func look(_ gateway: SimulatedGateway) {
    let (connection, reign) = (gateway.connection, reign)
    plan(dice.roll(1...20)) { [self] in
      if gateway.connection == connection, self.reign == reign {
        let records = master.session.records.compactMap { name, record in
          ResponseRecord("\(record.epoch) \(record.n) \(record.state) \(record.token) \(record.id) 0")
            .map { (response: name, record: $0) }
        }
        for lease in gateway.watch.looked(at: records, serverTime: 0, now: now) {
          plan(dice.roll(1...20)) { [self] in
            guard self.reign == reign else { return }
            let reply = execute(.expire(response: lease.response, epoch: lease.epoch, token: lease.token))
            if reply.first == "ok" { expiries += 1 }
          }
        }
      }
      plan(LeaseWatch.interval.nanoseconds / 1_000_000) { self.look(gateway) }
    }
  }

  // MARK: trouble

  private func makeTrouble() {
    guard time < Self.trouble else { return }
    let producer = producers[Int(dice.roll(0...Int64(producers.count - 1)))]
    switch dice.roll(0...9) {
    case 0...2: drop(producer)
    case 3 where weather.losesData: failOver()
    case 4 where weather.losesData && dice.chance(30):
      past = []
      lostAt = time
      var empty = ModelScript(fault: master.fault)
      empty.clock = master.clock
      change(to: empty)
    case 5 where weather.isDeleted:
      if dice.chance(50) {
        deletedAt = time
        _ = execute(.delete)
      } else if !master.session.records.isEmpty {
        deletedAt = time
        past.append((time, master))
        (master.session.exists, master.session.entries) = (false, [])
      }
    case 6 where weather.crashes: producer.hasCrashed = true
    case 7 where weather.freezes:
      producer.frozenUntil = max(producer.frozenUntil, time + dice.roll(100...40_000))
      producer.wasFrozen = true
    case 8 where weather.hasRivals && producers.count < 5: produce()
    default:
      for gateway in gateways where dice.chance(30) {
        gateway.connection += 1
        gateway.watch.connectionLost()
      }
    }
    plan(dice.roll(200...6000)) { self.makeTrouble() }
  }

  private func failOver() {
    past.removeAll { $0.at < time - 5000 }
    guard !past.isEmpty else { return }
    let back = Int(dice.roll(1...Int64(past.count)))
    lostAt = time
    let old = past[past.count - back].state
    past.removeLast(back)
    change(to: old)
  }

  private func change(to other: ModelScript) {
    master = other
    reign += 1
    for producer in producers { drop(producer) }
    for gateway in gateways { gateway.watch.connectionLost() }
  }

  // MARK: the verdict

  private func complain(_ what: String) {
    if complaints.count < 10 { complaints.append("at \(time): \(what)") }
  }

  private func judge() {
    judgeStream()
    for producer in producers where !producer.hasCrashed { judge(producer) }
    guard let record = master.session.records["r"] else { return }
    if record.state == .open { complain("the response never ended: \(record)") }
    // A deletion that was lost with a tail leaves a response that nobody has any more.
    if expiries > 0, !weather.crashes, !weather.freezes, deletedAt < 0 {
      complain("a producer that lived was given up")
    }
  }

  private func judge(_ producer: SimulatedProducer) {
    switch producer.writer.phase {
    case .released:
      if let openedAt = producer.openedAt, let endedAt = producer.endedAt, openedAt < deletedAt, deletedAt < endedAt,
        lostAt < deletedAt
      {
        complain("\(producer.name) went on after the deletion")
      }
      guard let endedAt = producer.endedAt, max(lostAt, deletedAt) < endedAt, !weather.hasRivals else { return }
      let text = producer.said.keys.sorted().compactMap { producer.said[$0] }.joined()
      if text != units().map(\.text).joined() { complain("\(producer.name) was not told the truth about its end") }
    case .failed(.deleted) where deletedAt >= 0: break
    case .failed(.fenced) where weather.hasRivals: break
    case .failed(.ended(.error)) where producer.wasFrozen || weather.crashes && weather.hasRivals: break
    case .failed(.ended) where weather.hasRivals: break
    case let phase: complain("\(producer.name) came to \(phase)")
    }
  }

  private func units() -> [(n: UInt64, text: String)] {
    master.session.entries.flatMap { entry -> [(n: UInt64, text: String)] in
      guard let last = field("n", entry).flatMap({ UInt64($0) }) else { return [] }
      let texts = (field("data", entry) ?? "").split(separator: ";").map { "\($0);" }
      let joined = field("joined", entry).flatMap { Int($0) } ?? 1
      if texts.count != joined { complain("\(entry) holds \(texts.count) deltas") }
      return texts.enumerated().map { (last + UInt64($0.offset) + 1 - UInt64(min(texts.count, Int(last))), $0.element) }
    }
  }

  private func field(_ name: String, _ entry: [String]) -> String? {
    stride(from: 0, to: entry.count - 1, by: 2).first { entry[$0] == name }.map { entry[$0 + 1] }
  }

  /// One start, nobody who speaks again after another did, numbers without a gap, each saying what a producer said there, and nothing behind the one end.
  private func judgeStream() {
    let entries = master.session.entries
    guard let first = entries.first else { return }
    if field("event", first) != "start" { complain("the stream begins with \(first)") }
    let events = entries.compactMap { field("event", $0) }
    if events.filter({ $0 == "start" }).count != 1 { complain("several starts: \(events)") }
    let ends = entries.indices.filter { ["end", "error", "cancelled"].contains(field("event", entries[$0])) }
    if ends.count > 1 || ends.last.map({ $0 != entries.count - 1 }) ?? false { complain("ends at \(ends)") }
    var last: UInt64 = 0
    var speakers: [Int] = []
    for (n, text) in units() {
      // Who took over goes on behind what it never had, if that was lost.
      let isTakeOver = lostAt >= 0 && producers.contains { $0.said[n] == text && $0.said[n - 1] == nil }
      if n != last + 1, !isTakeOver { complain("\(n) after \(last)") }
      last = n
      guard let speaker = producers.firstIndex(where: { $0.said[n] == text }) else {
        complain("nobody said '\(text)' at \(n)")
        continue
      }
      if speaker == speakers.last { continue }
      if speakers.contains(speaker), lostAt < 0 { complain("\(text) came behind a newer producer's") }
      speakers.append(speaker)
    }
  }
}
