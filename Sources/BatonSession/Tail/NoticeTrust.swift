import BatonProtocol

/// Whether notices are to be believed, from what they announced and from what was found without them.
struct NoticeTrust: Sendable {
  /// Each unannounced change adds so much doubt, each announced one takes 1 away.
  private static let doubtOfMiss = 4

  private(set) var source: Tail.Source
  private(set) var isArmed = false
  private let mostDoubt: Int
  private let vainNotices: Int
  private var doubt = 1
  /// Sessions in which a change was found that no notice had announced, with the probe that decides whether one is late.
  private var suspects: [SessionName: UInt64] = [:]
  private var probe: UInt64 = 0
  private var vain = (count: 0, second: Int64.min)

  init(_ configuration: Tail.Configuration, source: Tail.Source) {
    self.source = source
    mostDoubt = NoticeTrust.doubtOfMiss * configuration.maxUnannounced
    vainNotices = configuration.vainNotices
  }

  var suspected: Int { suspects.count }

  /// A new set-up: nothing is proven on it.
  mutating func begin(isArmed: Bool) {
    self.isArmed = isArmed
    doubt = 1
    suspects.removeAll()
    source = isArmed ? .unproven : .poll
  }

  /// Whatever it is about, a notice has come.
  mutating func came() { if source == .unproven { doubt = 0 } }

  mutating func announced(_ session: SessionName) { if suspects.removeValue(forKey: session) != nil { confirmed() } }
  mutating func announcedAll() { suspects.removeAll() }
  mutating func forget(_ session: SessionName) { suspects[session] = nil }

  /// What a notice had announced was found.
  mutating func confirmed() { doubt = max(doubt - 1, 0) }

  /// A change was found, and no notice of it had come.
  ///
  /// - Returns: the probe whose answer comes behind every notice that is on its way.
  mutating func suspect(_ session: SessionName) -> UInt64 {
    probe += 1
    suspects[session] = probe
    return probe
  }

  mutating func probeAnswered(_ token: UInt64) {
    let missed = suspects.filter { $0.value <= token }
    for session in missed.keys { suspects[session] = nil }
    doubt = min(doubt + NoticeTrust.doubtOfMiss * missed.count, mostDoubt)
  }

  /// A notice announced nothing.
  ///
  /// - Returns: whether there were more of them in this second than are ordinary.
  mutating func tookVainNotice(at now: Int64) -> Bool {
    if vain.second != now / 1000 { vain = (0, now / 1000) }
    vain.count += 1
    return vain.count > vainNotices
  }

  /// - Returns: the source from now on, where it has changed.
  mutating func reconsidered() -> Tail.Source? {
    let now: Tail.Source =
      switch source {
      case _ where !isArmed: .poll
      case .tracking: doubt >= mostDoubt ? .poll : .tracking
      case .unproven: doubt >= mostDoubt ? .poll : doubt == 0 ? .tracking : .unproven
      case .poll: doubt == 0 ? .tracking : .poll
      }
    guard now != source else { return nil }
    source = now
    return now
  }
}
