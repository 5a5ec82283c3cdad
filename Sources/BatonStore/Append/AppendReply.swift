import BatonProtocol

/// The script's answer to ``AppendCall/open(_:)`` and ``AppendCall/append(_:)``.
package enum WriteReply: Sendable, Equatable {
  case written(Written)
  /// The call would leave a gap: this is the last number there is, 0 for none.
  case rewind(UInt64)
  /// Redis knows nothing of the response.
  case lost
  /// A newer writer, with this epoch, has taken over.
  case fenced(UInt64)
  /// The session was deleted after this writer opened.
  case deleted
  case ended(n: UInt64, ResponseState)
  case wrongType(key: String)

  package struct Written: Sendable, Equatable {
    package var epoch: UInt64
    /// The last number there is.
    package var n: UInt64
    package var state: ResponseState
    package var generation: UInt64
    /// The response's last entry; nil if there is none yet.
    package var id: EntryID?
    /// The inbox's newest entry; zero where it is empty, or for an append.
    package var inbox: EntryID

    package init(epoch: UInt64, n: UInt64, state: ResponseState, generation: UInt64, id: EntryID?, inbox: EntryID) {
      self.epoch = epoch
      self.n = n
      self.state = state
      self.generation = generation
      self.id = id
      self.inbox = inbox
    }
  }

  /// Nil for anything that the script does not answer.
  package init?(_ parts: [String]) {
    func number(_ index: Int) -> UInt64? { index < parts.count ? UInt64(parts[index]) : nil }
    switch parts.first {
    case "ok":
      guard parts.count == 7, let epoch = number(1), let n = number(2), let state = ResponseState(rawValue: parts[3]),
        let generation = number(4), let inbox = EntryID(parts[6])
      else { return nil }
      self = .written(
        Written(epoch: epoch, n: n, state: state, generation: generation, id: EntryID(parts[5]), inbox: inbox))
    case "rewind":
      guard let n = number(1) else { return nil }
      self = .rewind(n)
    case "lost": self = .lost
    case "fenced":
      guard let epoch = number(1) else { return nil }
      self = .fenced(epoch)
    case "deleted": self = .deleted
    case "ended":
      guard parts.count == 3, let n = number(1), let state = ResponseState(rawValue: parts[2]) else { return nil }
      self = .ended(n: n, state)
    case "wrong_type" where parts.count == 2: self = .wrongType(key: parts[1])
    default: return nil
    }
  }
}

/// The script's answer to ``AppendCall/put(_:)``.
package enum PutReply: Sendable, Equatable {
  /// The ids, nil where nothing was to be put. `again`: it had been put before.
  case put(id: EntryID?, inboxID: EntryID?, again: Bool)
  /// The same key came with other fields before.
  case keyConflict
  case wrongType(key: String)

  /// Nil for anything that the script does not answer.
  package init?(_ parts: [String]) {
    switch (parts.first, parts.count) {
    case ("ok", 4): self = .put(id: EntryID(parts[1]), inboxID: EntryID(parts[2]), again: parts[3] == "again")
    case ("key_conflict", _): self = .keyConflict
    case ("wrong_type", 2): self = .wrongType(key: parts[1])
    default: return nil
    }
  }
}

/// The script's answer to ``AppendCall/expire(response:epoch:token:)``.
package enum ExpireReply: Sendable, Equatable {
  case expired(EntryID)
  /// The response has ended, or its writer lives.
  case changed
  case wrongType(key: String)

  /// Nil for anything that the script does not answer.
  package init?(_ parts: [String]) {
    switch (parts.first, parts.count) {
    case ("ok", 2):
      guard let id = EntryID(parts[1]) else { return nil }
      self = .expired(id)
    case ("changed", _): self = .changed
    case ("wrong_type", 2): self = .wrongType(key: parts[1])
    default: return nil
    }
  }
}
