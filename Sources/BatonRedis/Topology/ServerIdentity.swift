/// Which server has answered, and as what.
package struct ServerIdentity: Sendable, Equatable {
  /// Drawn anew by each start of a server; nil where it does not say.
  package var runID: String?
  /// False for a replica; a server that tells nobody is taken for a master.
  package var isMaster: Bool
  /// Of the history that it writes; a promoted replica begins one of its own.
  package var replicationID: String?
  /// Of the history that it had from its master, before it was promoted.
  package var previousReplicationID: String?

  /// Answered in this order; a server may refuse each of them.
  package static let questions = [RedisCommand.role, .info("server"), .info("replication")]

  /// - Parameter replies: to ``questions``.
  /// - Throws: where the server refuses whatever it is asked.
  package init(_ replies: [RESPReply]) throws(RedisError) {
    if let error = replies.lazy.compactMap(\.error).first(where: \.shuts) { throw error }
    let role = replies.first.flatMap { try? RedisRole($0) }
    let lines = replies.dropFirst().compactMap { try? $0.decodedInfo() }.reduce(into: [:]) { $0.merge($1) { $1 } }
    runID = lines["run_id"]
    replicationID = lines["master_replid"]
    previousReplicationID = lines["master_replid2"]
    isMaster =
      switch role {
      case .master: true
      case .replica, .sentinel: false
      case nil: lines["role"].map { $0 == "master" } ?? true
      }
  }

  package init(
    runID: String?, isMaster: Bool = true, replicationID: String? = nil, previousReplicationID: String? = nil
  ) {
    (self.runID, self.isMaster) = (runID, isMaster)
    (self.replicationID, self.previousReplicationID) = (replicationID, previousReplicationID)
  }

  /// Whether its history goes on where the other's was when the other was left.
  package func descends(from other: ServerIdentity) -> Bool {
    guard let theirs = other.replicationID else { return false }
    return previousReplicationID == theirs || replicationID == theirs
  }
}
