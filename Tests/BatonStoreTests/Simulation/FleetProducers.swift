import BatonProtocol
import NIOCore
import TestSupport

@testable import BatonProducer
@testable import BatonRedis
@testable import BatonSession
@testable import BatonStore

/// What a replica may have heard last: all before an entry, with the state of the session's producers then.
struct ReplicationPoint {
  let number: Int
  let at: Int64
  /// The server's turn in which the entry was added: a step is heard as a whole.
  let turn: Int
  /// The first entry that is not known there.
  let serial: Int
  let producers: ModelRedisServer.Value?
}

/// A response whose producer appends by the atomic step and renews its lease, as those do that are given to a gateway.
final class ProducedResponse: @unchecked Sendable {
  let session: SessionName
  let name: String
  var writer: ResponseWriter
  var isDead = false
  var isReleased = false
  /// Longer ago than a lease is good for it may be a zombie.
  var frozenUntil: Int64 = 0
  var wasFrozen = false
  /// When its token last changed in Redis.
  var renewedAt: Int64

  init(_ session: SessionName, _ name: String, _ writer: ResponseWriter, at now: Int64) {
    (self.session, self.name, self.writer, renewedAt) = (session, name, writer, now)
  }

  var isOver: Bool {
    switch writer.phase {
    case .released, .failed: true
    default: false
    }
  }
}

/// Producers, in a process of their own whose store is the one that ships: through slots that move, masters that die with a
/// tail, and for as long as they live.
extension Fleet {
  func notePoint(_ session: SessionName, before stored: ModelRedisServer.StreamEntry, on server: ModelRedisServer) {
    var known = points[session] ?? []
    if let last = known.last, last.turn == server.turn, last.serial / 10_000_000 == stored.serial / 10_000_000 {
      return
    }
    if known.count > 16 { known.removeFirst(8) }
    let state = holder(of: key(session) + ":producers").keys[key(session) + ":producers"]
    known.append(
      ReplicationPoint(
        number: (known.last?.number ?? 0) + 1, at: now, turn: server.turn, serial: stored.serial, producers: state))
    points[session] = known
  }

  func startProducers() {
    producers = try? SimulatedNode(90, self)
    producers?.start()
    for session in sessions { beginResponse(in: session) }
  }

  private func beginResponse(in session: SessionName) {
    plan(after: dice.roll(100...8000)) { [self] in
      if isCalm { return }
      let name = "\(session).p\(serial)"
      let response = ProducedResponse(
        session, name, ResponseWriter(response: name, writer: "w\(serial)", now: loop.now), at: now)
      produced[name] = response
      response.writer.connected(now: loop.now)
      pump(response)
      speak(response)
      // The next one begins whatever becomes of this one.
      plan(after: dice.roll(5000...40_000)) { [self] in beginResponse(in: session) }
    }
  }

  func isOpen(_ response: ProducedResponse) -> Bool {
    let key = key(response.session) + ":producers"
    return holder(of: key).hash(key)?[response.name].flatMap { ResponseRecord(String(buffer: $0)) }?.state == .open
  }

  private func speak(_ response: ProducedResponse) {
    plan(after: dice.roll(20...1500)) { [self] in
      if response.isDead || response.isOver || response.writer.isEnding { return }
      awake(response) { [self] in
        if response.writer.phase == .open, response.writer.hasRoom { say(response) }
        pump(response)
        speak(response)
      }
    }
  }

  private func say(_ response: ProducedResponse) {
    switch dice.roll(0...99) {
    case 0 where !isCalm:
      note(response.session, "the producer of \(response.name) dies")
      response.isDead = true
    case 1 where !isCalm:
      let time = dice.roll(3000...40_000)
      note(response.session, "the producer of \(response.name) freezes for \(time) ms")
      (response.frozenUntil, response.wasFrozen) = (now + Int64(time), true)
    case 2, 3: response.writer.ended(.end, [], now: loop.now)
    default:
      if isCalm { return response.writer.ended(.end, [], now: loop.now) }
      for _ in 0..<dice.roll(1...4) {
        let text = "\(response.name):\(response.writer.items.last + 1);"
        response.writer.appended(.delta(ByteBuffer(string: text)), now: loop.now)
      }
    }
  }

  /// At once, or when it thaws; never after it has died.
  private func awake(_ response: ProducedResponse, _ action: @escaping () -> Void) {
    if response.isDead { return }
    if response.frozenUntil <= now { return action() }
    network.at(response.frozenUntil) { [self] in awake(response, action) }
  }

  private func pump(_ response: ProducedResponse) {
    if response.isDead { return }
    defer { release(response) }
    if let call = response.writer.next(now: loop.now) {
      producers?.store?.run(call, response.session) { [self] result in
        plan(after: 0) { [self] in awake(response) { [self] in answered(response, result) } }
      }
    }
    if let wake = response.writer.wakeAt {
      let delay = Int((wake - loop.now).nanoseconds / 1_000_000) + 1
      plan(after: max(delay, 1)) { [self] in
        awake(response) { [self] in if let wake = response.writer.wakeAt, wake <= loop.now { pump(response) } }
      }
    }
  }

  /// It was there whole when its producer let it go.
  private func release(_ response: ProducedResponse) {
    guard response.writer.phase == .released, !response.isReleased else { return }
    response.isReleased = true
    let entries = retained(response.session).filter { $0.isOf(response.name) }
    if entries.last?.endsResponse == true, entries.contains(where: { $0.n == response.writer.items.last }) {
      tally.whole += 1
    }
  }

  private func answered(_ response: ProducedResponse, _ result: Result<[String], RedisError>) {
    switch result {
    case .success(let parts):
      guard let reply = WriteReply(parts) else { return complain("the step answers \(parts)", in: response.session) }
      response.writer.replied(reply, now: loop.now)
    case .failure(let error) where error.reason == .server:
      response.writer.refused("\(error)", now: loop.now, random: Double(dice.roll(0...1000)) / 1000)
    case .failure(let error):
      response.writer.disconnected("\(error)")
      plan(after: dice.roll(1...100)) { [self] in
        awake(response) { [self] in
          response.writer.connected(now: loop.now)
          pump(response)
        }
      }
    }
    if case .failed(let error) = response.writer.phase {
      note(response.session, "the producer of \(response.name) is told: \(error)")
      // Who was frozen for longer than a lease is good for.
      guard case .ended(.error) = error, response.wasFrozen else {
        return complain("the producer of \(response.name) is told: \(error)", in: response.session)
      }
      tally.zombies += 1
    }
    pump(response)
  }

  /// A gateway has ended a response in Redis.
  func expired(_ name: String) {
    guard let response = produced[name] else { return }
    let age = now - response.renewedAt
    note(response.session, "\(name) is ended \(age) ms after its last renewal")
    tally.lost += 1
    if age < 14_000 { complain("\(name) was ended \(age) ms after its last renewal", in: response.session) }
    if !response.isDead, !response.wasFrozen {
      complain("\(name) was ended, and its producer lives; it renewed it \(age) ms ago", in: response.session)
    }
  }

  func judgeProducers() {
    for response in produced.values {
      let entries = retained(response.session).filter { $0.isOf(response.name) }
      var last: UInt64?
      for entry in entries {
        guard let n = entry.n else { continue }
        if let last, n - entry.joined != last {
          return complain("\(response.name) has \(n) after \(last)", in: response.session)
        }
        let texts = (n - entry.joined + 1...n).map { "\(response.name):\($0);" }.joined()
        guard case .text(let bytes) = entry.payload, String(buffer: bytes) == texts else {
          return complain("\(response.name) says something else at \(n) than its producer", in: response.session)
        }
        last = n
      }
      if response.isDead {
        if isOpen(response), devices.contains(where: { $0.session == response.session && $0.node != nil }) {
          return complain("\(response.name) is open, and its producer is dead", in: response.session)
        }
        continue
      }
      guard response.isOver else {
        return complain("\(response.name) came to \(response.writer.phase)", in: response.session)
      }
      if case .failed = response.writer.phase { continue }
      guard let newest = entries.last else { continue }
      if !newest.endsResponse || last.map({ $0 != response.writer.items.last }) ?? false {
        return complain(
          "\(response.name) ends with \(last ?? 0) of \(response.writer.items.last), and \(newest.event)",
          in: response.session)
      }
    }
  }
}
