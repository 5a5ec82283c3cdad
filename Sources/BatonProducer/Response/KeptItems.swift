import BatonProtocol
import BatonSession
import BatonStore
import DequeModule
import NIOCore

/// The newest items of a response: one number each, without gaps.
struct KeptItems {
  enum Item: Equatable {
    /// - Parameter part: `kind:name`; nil for the answer's text.
    case delta(ByteBuffer, part: String? = nil)
    /// With `event` among the fields.
    case event([Entry.Field])

    /// What it costs to keep: its bytes, and something for having it at all.
    var cost: Int {
      switch self {
      case .delta(let text, let part): 64 + text.readableBytes + (part?.utf8.count ?? 0)
      case .event(let fields): 64 + fields.reduce(0) { $0 + $1.name.readableBytes + $1.value.readableBytes }
      }
    }
  }

  /// One call of the script carries so many bytes, or one item.
  static let callLimit = 256 << 10
  /// One joined entry holds so many bytes, or one delta: what a gateway joins to at most.
  static let joinLimit = 64 << 10

  /// The number of the newest item; 0 before the first.
  private(set) var last: UInt64 = 0
  /// Up to here Redis has them; at most `last`.
  private(set) var known: UInt64 = 0
  private(set) var bytes = 0
  private(set) var unknownBytes = 0
  private var items = Deque<Item>()

  /// The number before the oldest that is kept.
  private var base: UInt64 { last - UInt64(items.count) }

  /// Goes on behind another writer's items.
  mutating func began(after n: UInt64) {
    (last, known) = (n, n)
  }

  mutating func append(_ item: Item) {
    items.append(item)
    last += 1
    bytes += item.cost
    unknownBytes += item.cost
  }

  /// Redis has all up to `n` and nothing behind it.
  mutating func isKnown(through n: UInt64) {
    let n = min(n, last)
    let (low, high) = (max(min(n, known), base), max(max(n, known), base))
    let cost = items[Int(low - base)..<Int(high - base)].reduce(0) { $0 + $1.cost }
    unknownBytes += n < known ? cost : -cost
    known = n
  }

  /// Forgets what Redis has, oldest first, until at most `limit` bytes are left.
  mutating func trim(to limit: Int) {
    while bytes > limit, base < known, let item = items.popFirst() { bytes -= item.cost }
  }

  mutating func removeAll() {
    items.removeAll()
    (bytes, unknownBytes, known) = (0, 0, last)
  }

  /// What Redis does not have, as far as one call carries it, and the last number in it.
  func unknown() -> (items: [ResponseItem], through: UInt64) {
    var result: [ResponseItem] = []
    if known < base { result.append(.gap(base)) }
    var (through, size) = (max(known, base), 0)
    var (run, runSize, runPart): ([ByteBuffer], Int, String?) = ([], 0, nil)
    func close() {
      if !run.isEmpty { result.append(.deltas(run, part: runPart)) }
      (run, runSize) = ([], 0)
    }
    for item in items[Int(through - base)...] {
      if size > 0, size + item.cost > Self.callLimit { break }
      size += item.cost
      through += 1
      switch item {
      case .delta(let text, let part):
        if runSize + text.readableBytes > Self.joinLimit || part != runPart { close() }
        runPart = part
        run.append(text)
        runSize += text.readableBytes
      case .event(let fields):
        close()
        result.append(.event(fields))
      }
    }
    close()
    return (result, through)
  }
}
