import NIOCore

/// Decides which server is the master, from what the Sentinels say and what the servers say of themselves.
///
/// Nobody is followed who does not answer as a master. A master that answers is left for another one only if that one's
/// history is its continuation, or most of all Sentinels name it: one Sentinel that lies, or was cut off, moves nobody.
package struct SentinelVote: Sendable {
  package typealias Address = RedisURL.Address

  package enum Action: Equatable, Sendable {
    /// Ask this server who it is and answer with `examined`.
    case examine(Address)
    /// This is the master from now on.
    case follow(Address)
  }

  /// For so long the first choice waits for more Sentinels.
  static let gathering = TimeAmount.milliseconds(500)
  /// A server that did not answer as a master is asked again after so long.
  static let pause = TimeAmount.milliseconds(250)
  /// Without a master for so long, what most of those say who still answer is enough.
  static let despair = TimeAmount.seconds(3)

  private let sentinels: Int
  private var opinions: [Int: Address] = [:]
  private var heard: Set<Int> = []
  private var firstAnswer: NIODeadline?
  /// Who is followed.
  package private(set) var master: Address?
  private var identity: ServerIdentity?
  /// Since when nobody answers as the master.
  private var lostSince: NIODeadline?
  private var examining: Address?
  private var notBefore: [Address: NIODeadline] = [:]

  /// - Parameter sentinels: how many there are, 1 and up.
  package init(sentinels: Int) { self.sentinels = sentinels }

  /// - Parameter address: nil: it does not know such a master.
  package mutating func said(_ sentinel: Int, _ address: Address?, at now: NIODeadline) -> [Action] {
    heard.insert(sentinel)
    firstAnswer = firstAnswer ?? now
    // What has just been named is looked at now, whatever it was before.
    if let address, opinions[sentinel] != address { notBefore[address] = nil }
    opinions[sentinel] = address
    return next(at: now)
  }

  /// The Sentinel does not answer: it has no say.
  package mutating func fellSilent(_ sentinel: Int, at now: NIODeadline) -> [Action] {
    heard.insert(sentinel)
    opinions[sentinel] = nil
    return next(at: now)
  }

  /// - Parameter identity: nil: the server was not reached.
  package mutating func examined(_ address: Address, _ found: ServerIdentity?, at now: NIODeadline) -> [Action] {
    guard examining == address else { return [] }
    examining = nil
    guard let found, found.isMaster, isChoice(address, found, at: now) else {
      notBefore = notBefore.filter { opinions.values.contains($0.key) }
      notBefore[address] = now + Self.pause
      return next(at: now)
    }
    (master, identity, lostSince) = (address, found, nil)
    notBefore.removeAll()
    return [.follow(address)]
  }

  /// A connection to the master that is followed was opened, and it answered as one.
  package mutating func answered(_ identity: ServerIdentity) { (self.identity, lostSince) = (identity, nil) }

  /// The master that is followed does not answer, or not as a master.
  package mutating func lost(at now: NIODeadline) -> [Action] {
    lostSince = lostSince ?? now
    return next(at: now)
  }

  /// To be called a few times a second.
  package mutating func timePassed(now: NIODeadline) -> [Action] { next(at: now) }

  private func votes(_ address: Address) -> Int { opinions.values.count { $0 == address } }

  private func isChoice(_ address: Address, _ found: ServerIdentity, at now: NIODeadline) -> Bool {
    guard master != nil, let identity else { return true }
    // The same server under another name.
    if let runID = found.runID, runID == identity.runID { return false }
    if found.descends(from: identity) { return true }
    // Most Sentinels hear of a switch a moment later than the first: who was left is not gone back to.
    let wasLeft = found.replicationID != nil && found.replicationID == identity.previousReplicationID
    if !wasLeft, votes(address) * 2 > sentinels { return true }
    guard let lostSince, now - lostSince >= Self.despair else { return false }
    return votes(address) == opinions.values.map(votes).max()
  }

  private mutating func next(at now: NIODeadline) -> [Action] {
    guard examining == nil else { return [] }
    let named = Set(opinions.values).filter { $0 != master && now >= notBefore[$0] ?? now }
    let first = named.max { one, other in
      (votes(one), other.description) < (votes(other), one.description)
    }
    guard let first else { return [] }
    if master == nil, votes(first) * 2 <= sentinels, heard.count < sentinels,
      now - (firstAnswer ?? now) < Self.gathering
    {
      return []
    }
    examining = first
    return [.examine(first)]
  }
}
