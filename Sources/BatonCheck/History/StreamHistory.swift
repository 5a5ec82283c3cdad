import BatonProtocol

/// What a stream held at the end, in its order.
struct StreamHistory {
  struct Item {
    var offset: Offset
    var event: Name
    var response: Name?
    var part: Name?
    var n: UInt64?
    var joined: UInt64
    var hasMore = false
    var data: Digest?
    var fields: UInt64
    var bytes: UInt64
    var isElided: Bool
    var isJoinable: Bool

    var id: EntryID { offset.id }
    /// The number of its first delta.
    var firstN: UInt64? { n.map { $0 - joined + 1 } }
  }

  let at: Int64
  private(set) var items: [Item] = []
  /// The recording came to the stream's end.
  var isWhole = false
  /// Entries may be gone from it: before Redis 7 nothing says that none are.
  var hasRemoved = true

  init(at: Int64) { self.at = at }

  /// Takes the next entry; one that is out of place is told, and taken where it belongs.
  mutating func append(_ item: Item) -> Finding.Kind? {
    guard let last = items.last, item.id <= last.id else {
      items.append(item)
      return nil
    }
    let index = upperBound(item.id)
    if index > 0, items[index - 1].id == item.id { return .doubled }
    items.insert(item, at: index)
    return .reordered
  }

  /// The index of the first item behind this place.
  func upperBound(_ id: EntryID) -> Int {
    var (low, high) = (0, items.count)
    while low < high {
      let middle = (low + high) / 2
      if items[middle].id <= id { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// - Parameter near: where it is likely to be.
  func index(of id: EntryID, near: Int) -> Int? {
    if near < items.count, items[near].id == id { return near }
    let index = upperBound(id) - 1
    return index >= 0 && items[index].id == id ? index : nil
  }

  /// Whether it may have held an entry at this place, and the recording does not say.
  func isUnknown(_ id: EntryID) -> Bool { !isWhole && id > items.last?.id ?? .zero }
}

/// A name that is kept once.
typealias Name = Int32

/// Names by number.
struct Names {
  private var numbers: [String: Name] = ["token": 0]
  private var names = ["token"]

  mutating func number(_ name: String) -> Name {
    if let number = numbers[name] { return number }
    let number = Name(names.count)
    names.append(name)
    numbers[name] = number
    return number
  }

  subscript(number: Name) -> String { names[Int(number)] }
}
