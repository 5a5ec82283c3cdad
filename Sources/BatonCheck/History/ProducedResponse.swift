import BatonProtocol

/// What producers meant of one response, and what Redis acknowledged to them.
struct ProducedResponse {
  private var deltas: [(n: UInt64, digest: Digest)] = []
  private var acknowledgements: [(through: UInt64, at: Int64, id: EntryID?)] = []
  private var ends: [(event: String, data: Digest?)] = []
  private(set) var acknowledgedEnd: (event: String, at: Int64, id: EntryID?)?
  private var isSorted = true

  /// Digests that a run of deltas may have where several producers meant different ones.
  private static let alternatives = 16

  mutating func happened(_ event: RecordingEvent, at: Int64) {
    switch event {
    case .opened(let n): acknowledged(through: n, at: at, id: nil)
    case .delta(let n, let digest):
      deltas.append((n, digest))
      isSorted = false
    case .end(let event, let data): ends.append((event, data))
    case .acknowledged(let n, let end, let id):
      acknowledged(through: n, at: at, id: end == nil ? id : nil)
      if let end { acknowledgedEnd = acknowledgedEnd ?? (end, at, id) }
    default: break
    }
  }

  private mutating func acknowledged(through n: UInt64, at: Int64, id: EntryID?) {
    guard n > 0 else { return }
    acknowledgements.append((n, at, id))
    isSorted = false
  }

  /// Before the first question.
  mutating func sort() {
    if isSorted { return }
    isSorted = true
    deltas.sort { $0.n < $1.n }
    acknowledgements.sort { $0.through < $1.through }
    // What covers more covers this, too: the earliest counts.
    var earliest = Int64.max
    for index in acknowledgements.indices.reversed() {
      earliest = min(earliest, acknowledgements[index].at)
      acknowledgements[index].at = earliest
    }
  }

  /// The highest number that Redis has acknowledged.
  var acknowledgedThrough: UInt64 { acknowledgements.last?.through ?? 0 }

  /// When Redis acknowledged it; nil if it never did.
  func acknowledgedAt(_ n: UInt64) -> Int64? { acknowledgement(n)?.at }

  /// Its id, where the acknowledgement was of it alone.
  func id(of n: UInt64) -> EntryID? { acknowledgement(n).flatMap { $0.through == n ? $0.id : nil } }

  private func acknowledgement(_ n: UInt64) -> (through: UInt64, at: Int64, id: EntryID?)? {
    let index = acknowledgements.partitioningIndex { $0.through >= n }
    return index < acknowledgements.count ? acknowledgements[index] : nil
  }

  /// The first number of these that was acknowledged at or after this time.
  func firstAcknowledged(_ range: ClosedRange<UInt64>, since: Int64) -> (n: UInt64, at: Int64)? {
    var index = acknowledgements.partitioningIndex { $0.through >= range.lowerBound }
    var n = range.lowerBound
    while index < acknowledgements.count, n <= range.upperBound {
      if acknowledgements[index].at >= since { return (n, acknowledgements[index].at) }
      n = acknowledgements[index].through + 1
      index += 1
    }
    return nil
  }

  /// Whether these deltas, one behind the other, are what a producer meant.
  func means(_ range: ClosedRange<UInt64>, _ digest: Digest) -> Bool {
    var index = deltas.partitioningIndex { $0.n >= range.lowerBound }
    var (n, wholes) = (range.lowerBound, [Digest()])
    while n <= range.upperBound {
      var next: [Digest] = []
      while index < deltas.count, deltas[index].n == n {
        for whole in wholes where next.count < Self.alternatives {
          var whole = whole
          whole.append(deltas[index].digest)
          if !next.contains(whole) { next.append(whole) }
        }
        index += 1
      }
      if next.isEmpty { return false }
      wholes = next
      n += 1
    }
    return wholes.contains(digest)
  }

  /// Whether this end is one that a producer meant, or what a gateway writes for one that is gone.
  func meansEnd(_ event: String, _ data: Digest?) -> Bool {
    event == "error" && data == Self.producerLost || ends.contains { $0.event == event && $0.data == data }
  }

  private static let producerLost = Digest(#"{"reason":"producer_lost"}"#)
}

extension Array {
  /// The index of the first element of those that hold, where all that do come last.
  fileprivate func partitioningIndex(_ holds: (Element) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if holds(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
