import NIOCore

@testable import BatonProtocol
@testable import BatonSession
@testable import BatonStore

/// The atomic step over a session in memory: what the script does, written a second time.
struct ModelScript {
  /// What a wrong script would do; a test must notice each.
  enum Fault: CaseIterable {
    case forgetsTheFence, cutsTooLittle, cutsTooMuch, doesNotCut, takesGaps, appendsAfterTheEnd, endsTwice
    case startsTwice, forgetsTheTombstone, expiresAnyToken, forgetsTheLostResponse
  }

  struct Record: Equatable {
    var epoch: UInt64
    var n: UInt64
    var state: ResponseState
    var token: String
    var id: String
  }

  struct Session {
    var exists = false
    /// Names and values in turn.
    var entries: [[String]] = []
    var records: [String: Record] = [:]
    var generation: UInt64 = 0
  }

  var session = Session()
  var fault: Fault?
  /// Counts deletions, as the server's clock tells them apart.
  var clock: UInt64 = 0
  private var ids: UInt64 = 0

  init(fault: Fault? = nil) { self.fault = fault }

  mutating func run(_ call: AppendCall) -> [String] {
    if !session.exists, !session.records.isEmpty { tombstone() }
    switch call {
    case .open(let write): return self.write(write, isOpening: true)
    case .append(let write): return self.write(write, isOpening: false)
    case .expire(let response, let epoch, let token):
      guard var record = session.records[response], record.state == .open, record.epoch == epoch,
        record.token == token || fault == .expiresAnyToken
      else { return ["changed"] }
      record.id = add(["event", "error", "response", response, "data", #"{"reason":"producer_lost"}"#])
      (record.state, record.token) = (.error, "-")
      session.records[response] = record
      return ["ok", record.id]
    case .delete:
      tombstone()
      return ["ok"]
    case .put(let put):
      let isStreamed = put.place != .inbox
      return ["ok", isStreamed ? add(text(put.fields)) : "-", "-", "new"]
    }
  }

  private mutating func tombstone() {
    clock += 1
    session = Session()
    if fault != .forgetsTheTombstone { session.generation = clock }
  }

  private mutating func add(_ entry: [String]) -> String {
    ids += 1
    session.exists = true
    session.entries.append(entry)
    return "\(ids)-0"
  }

  private func text(_ fields: [Entry.Field]) -> [String] {
    fields.flatMap { [String(buffer: $0.name), String(buffer: $0.value)] }
  }

  private func writer(_ token: String) -> Substring { token.prefix { $0 != "." } }

  private mutating func write(_ write: ResponseWrite, isOpening: Bool) -> [String] {
    let response = write.response
    if let opened = write.generation, session.generation > opened { return ["deleted"] }
    let known = session.records[response]
    if known == nil, !isOpening, fault != .forgetsTheLostResponse { return ["lost"] }
    var record = known ?? Record(epoch: max(write.epoch, 1), n: 0, state: .open, token: write.token, id: "-")
    let isMine = writer(record.token) == writer(write.token)
    var epoch = write.epoch
    if known != nil {
      if isOpening, epoch == 0 { epoch = isMine || record.state != .open ? record.epoch : record.epoch + 1 }
      let isOld = epoch < record.epoch || epoch == record.epoch && !isMine && record.state == .open
      if isOld, fault != .forgetsTheFence { return ["fenced", "\(record.epoch)"] }
    }
    var position = write.first - 1
    if position > record.n, fault != .takesGaps { return ["rewind", "\(record.n)"] }
    var (entries, n, state): ([[String]], UInt64, ResponseState) = ([], record.n, record.state)
    for item in write.items {
      switch item {
      case .deltas(let deltas, let part):
        let count = UInt64(deltas.count)
        var there = n > position ? n - position : 0
        if fault == .cutsTooLittle, there > 0, there < count { there -= 1 }
        if fault == .cutsTooMuch, there > 0, there + 1 < count { there += 1 }
        if fault == .doesNotCut { there = 0 }
        if count > there {
          var entry = ["response", response, "n", "\(position + count)"]
          if let part { entry += ["part", part] }
          if count > there + 1 { entry += ["joined", "\(count - there)"] }
          entries.append(entry + ["data", deltas.dropFirst(Int(there)).map { String(buffer: $0) }.joined()])
        }
        position += count
      case .event(let fields):
        position += 1
        if position > n { entries.append(["response", response, "n", "\(position)"] + text(fields)) }
      case .gap(let gap): position = max(position, gap)
      case .start(let fields):
        if known == nil || fault == .startsTwice {
          entries.append(["event", "start", "response", response] + text(fields))
        }
      case .end(let end, let fields):
        state = end
        if record.state == .open || fault == .endsTwice {
          entries.append(["event", end.rawValue, "response", response] + text(fields))
        }
      }
      n = max(n, position)
    }
    if record.state != .open, fault != .appendsAfterTheEnd, fault != .endsTwice {
      guard isMine, epoch == record.epoch, n <= record.n, state == record.state else {
        return ["ended", "\(record.n)", record.state.rawValue]
      }
    } else {
      if known == nil, entries.isEmpty { entries = [["event", "start", "response", response]] }
      for entry in entries { record.id = add(entry) }
      (record.epoch, record.n, record.state, record.token) = (max(epoch, record.epoch), n, state, write.token)
      session.records[response] = record
    }
    let generation = "\(session.generation)"
    return ["ok", "\(record.epoch)", "\(record.n)", record.state.rawValue, generation, record.id, "0-0"]
  }
}
