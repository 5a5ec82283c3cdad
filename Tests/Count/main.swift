/// The way of an entry from Redis' reply to the bytes for the devices, without sockets and clocks, so that its instructions
/// can be counted: the same each time. See test_instructions.py.
///
///     count sessions|fanout|storm ROUNDS
///
/// Prints how many entries were delivered.

import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import BatonWebSocket
import NIOCore

/// A session with devices that are live.
final class Followed {
  var log = SessionLog()
  var cursors: [Cursor] = []
}

final class Count {
  static let keyPrefix = "baton:"
  static let token = String(repeating: "x", count: 100)

  var reader = RESPReader()
  var decoder = StreamDecoder(maxEntryBytes: 1 << 18)
  var tail = Tail()
  var followed: [SessionName: Followed] = [:]
  var delivered = 0
  var bytes = 0

  // MARK: what Redis would say

  static func bulk(_ text: String) -> String { "$\(text.utf8.count)\r\n\(text)\r\n" }

  static func entry(_ number: UInt64) -> String {
    "*2\r\n" + bulk("1764181107000-\(number)") + "*6\r\n" + bulk("response") + bulk("r1") + bulk("n")
      + bulk("\(number)")
      + bulk("data") + bulk(token)
  }

  static func first() -> Entry {
    var reader = EntryReader(maxEntryBytes: 1 << 18)
    let fields = [("response", "r1"), ("n", "1"), ("data", token)].map {
      Entry.Field(name: ByteBuffer(string: $0), value: ByteBuffer(string: $1))
    }
    return reader.entry(EntryID(1_764_181_107_000, 1), fields)
  }

  private func reply(_ bytes: ByteBuffer) -> RESPReply? {
    var reply: RESPReply?
    try? reader.read(bytes) { reply = $0 }
    return reply
  }

  // MARK: live

  func follow(_ sessions: Int, devices: Int) {
    let entry = Count.first()
    let info = StreamInfo(
      exists: true, length: 1, first: entry.offset, last: entry.place, lastGenerated: entry.id, entriesAdded: 1,
      maxDeleted: .zero)
    _ = tail.connected(source: .tracking)
    for number in 0..<sessions {
      guard let name = SessionName("s\(number)") else { continue }
      let one = Followed()
      _ = tail.follow(name)
      perform(
        tail.completed(name, .entries(overlap: nil, Entries(), info: info, more: false)), one)
      for device in 0..<devices {
        var cursor = Cursor(
          AttachRequest(session: name, start: .end, rollup: .off, untilEnd: false, device: "d\(device)"))
        while let step = cursor.next(one.log) {
          switch step {
          case .read: cursor.pageArrived(.page(Page(info: info, entries: Entries([entry]), more: false)))
          case .touch:
            cursor.touched(1)
            one.log.apply(.confirmed(ticket: 1))
          default: break
          }
        }
        precondition(cursor.isLive, "not live")
        one.cursors.append(cursor)
      }
      followed[name] = one
    }
  }

  private func perform(_ actions: [Tail.Action], _ one: Followed) {
    for case .tell(_, let update) in actions { one.log.apply(update) }
  }

  /// What Redis answers in each round to a read of all sessions.
  static func replies(_ sessions: [SessionName], rounds: Int) -> [ByteBuffer] {
    (0..<rounds).map { round in
      var text = "*\(sessions.count)\r\n"
      for session in sessions {
        text +=
          "*2\r\n" + bulk(session.key(prefix: keyPrefix)) + "*2\r\n" + entry(UInt64(round) + 1)
          + entry(UInt64(round) + 2)
      }
      return ByteBuffer(string: text)
    }
  }

  func live(_ sessions: [SessionName], _ bytes: ByteBuffer) {
    for session in sessions { tail.noticed(session) }
    for case .read(let round) in tail.reads() { take(round, bytes) }
  }

  private func take(_ round: [TailRead], _ bytes: ByteBuffer) {
    guard let reply = reply(bytes) else { return }
    var outcomes: [(TailRead, TailOutcome)] = []
    do {
      if round.count == 1 {
        let key = round[0].session.key(prefix: Count.keyPrefix)
        outcomes.append((round[0], try round[0].outcome([reply], key: key, .transaction, &decoder)))
      } else {
        let keys = round.map { $0.session.key(prefix: Count.keyPrefix) }
        try round.outcomes(reply, keys: keys, &decoder) { outcomes.append(($0, $1)) }
      }
    } catch {
      fatalError("\(error)")
    }
    for (read, outcome) in outcomes {
      for case .tell(let session, let update) in tail.completed(read.session, outcome) { tell(session, update) }
    }
  }

  private func tell(_ session: SessionName, _ update: TailUpdate) {
    guard let one = followed[session] else { return }
    one.log.apply(update)
    guard case .appended(let segment) = update else { return }
    let frames = Count.frames(segment.entries)
    let start = one.log.next - segment.entries.count
    let standing = one.log.standing
    for index in one.cursors.indices where one.cursors[index].takesNewest(segment, at: start, standing) {
      delivered += segment.entries.count
      bytes += frames.readableBytes
    }
    one.log.shrink(toBytes: 1 << 14)
  }

  static func frames(_ entries: Entries) -> ByteBuffer {
    EntryFrames.bytes(
      entries, joined: false,
      EntryFrames.Head(length: WebSocketTextHeader.length(for:), write: WebSocketTextHeader.write(for:to:)))
  }

  // MARK: history

  static let page = ByteBuffer(string: "*501\r\n" + (1...501).map { Count.entry($0) }.joined())
  let budget = HistoryBudget(limit: 1 << 30)

  /// Two devices of a session at the same place.
  func storm(_ session: SessionName) {
    let request = PageRequest(
      session: session, span: .after(EntryID(1_764_181_107_000, 1)), limit: 500, look: false)
    guard let reply = reply(Count.page),
      case .outcome(.page(let page), _, _)? = try? request.reply([reply], .transaction, budget, &decoder)
    else { return }
    for _ in 0..<2 {
      let frames = page.segment.page?.encoded(Segment.Encoding(.webSocket, joined: false), from: 1) {
        Count.frames(page.entries[1...])
      }
      bytes += frames?.readableBytes ?? 0
      delivered += page.entries.count - 1
    }
  }
}

let arguments = CommandLine.arguments
let count = Count()
guard arguments.count == 3, let rounds = Int(arguments[2]), let session = SessionName("s") else {
  fatalError("count sessions|fanout|storm ROUNDS")
}
switch arguments[1] {
case "sessions", "fanout":
  let (sessions, devices) = arguments[1] == "sessions" ? (200, 2) : (1, 1000)
  count.follow(sessions, devices: devices)
  let names = count.followed.keys.sorted { $0.description < $1.description }
  // As many whatever is measured, so that the difference of two runs is what the rounds need.
  for bytes in Count.replies(names, rounds: 40).prefix(rounds) { count.live(names, bytes) }
case "storm": for _ in 0..<rounds { count.storm(session) }
default: fatalError("there is no workload \(arguments[1])")
}
print(count.delivered, count.bytes)
