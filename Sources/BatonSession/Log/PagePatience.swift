/// How long a device waits before it asks for a page of history. Where page and window disagree, whatever the cause, it
/// would ask for the same again and again: such a page is asked for three times at once, then after pauses that grow, and
/// in the long run twice a second.
package struct PagePatience: Sendable {
  private static let longestMs: Int64 = 500

  /// Its hash: that another page is taken for it costs that page a pause.
  private var last: Int?
  private var repeats: Int32 = 0
  private var askedAt: Int64 = 0

  package init() {}

  /// - Parameter now: milliseconds of a clock that does not go back.
  /// - Returns: milliseconds, 0 to 500.
  package mutating func pause(before page: PageRequest, at now: Int64) -> Int64 {
    let hash = page.hashValue
    let forgotten = Int32(clamping: (now - askedAt) / PagePatience.longestMs)
    repeats = hash == last ? max(0, repeats + 1 - forgotten) : 0
    let pause = repeats < 3 ? 0 : min(50 << Int64(min(repeats - 3, 4)), PagePatience.longestMs)
    (last, askedAt) = (hash, now)
    return pause
  }
}
