import BatonProtocol
import Collections
import NIOCore

@testable import BatonRedis
@testable import BatonStore

/// A redis-server as far as Baton uses one, over bytes. `ModelRedisServerTests` holds it to a real one.
final class ModelRedisServer {
  struct StreamEntry {
    var id: EntryID
    /// Names and values in turn.
    var fields: [ByteBuffer]
    /// Tells it apart from an equal id of another history.
    var serial: Int
    /// `entries-added` with this one.
    var index: UInt64
  }

  struct Stream {
    var entries: [StreamEntry] = []
    var lastGenerated: EntryID = .zero
    var added: UInt64 = 0
    var maxDeleted: EntryID = .zero
  }

  enum Value {
    case stream(Stream)
    case hash(OrderedDictionary<String, ByteBuffer>)
    case string(ByteBuffer)
  }

  /// What keeps a server from doing what it is asked.
  enum Mood: String, CaseIterable {
    case loading, masterDown, busy, misconf, oom, readOnly, noReplicas
  }

  /// A connection.
  final class Client {
    let id: Int64
    fileprivate(set) var name = ""
    fileprivate(set) var isSubscriber = false
    fileprivate var isAuthenticated = false
    fileprivate var queue: [[ByteBuffer]]?
    fileprivate var isTransactionSpoilt = false
    fileprivate var isAsking = false
    fileprivate var redirect: Int64?
    fileprivate var parser = ModelCommandParser()
    fileprivate let send: (ByteBuffer) -> Void

    fileprivate init(_ id: Int64, send: @escaping (ByteBuffer) -> Void) { (self.id, self.send) = (id, send) }
  }

  var keys: OrderedDictionary<String, Value> = [:]
  /// Milliseconds since 1970.
  var now: () -> Int64 = { 0 }
  /// Whether it is Redis 7: `entries-added` and `max-deleted-entry-id` are told.
  var countsAdded = true
  var password: String?
  var mood: Mood?
  /// `tracking-table-max-keys`; which keys are forgotten beyond it is up to `pick`.
  var trackedKeys = Int.max
  var pick: (Int) -> Int = { _ in 0 }
  /// Where a server of a cluster sends who asks for these keys: `MOVED`, `ASK` and the like; nil: they are its own.
  var route: ((_ keys: [String], _ isAsking: Bool) -> String?)?
  /// `CLUSTER NODES`, where it is one of a cluster's.
  var clusterNodes: (() -> String)?
  var isReplica = false
  /// An error instead of what a command would be answered.
  var refuse: ((Client, _ command: String) -> String?)?
  /// A notice gets lost.
  var losesNotice: () -> Bool = { false }
  /// An entry was added to a stream.
  var added: (_ key: String, StreamEntry) -> Void = { _, _ in }
  /// A lease's token has changed, in the state of a stream's session.
  var renewed: (_ key: String, _ response: String) -> Void = { _, _ in }
  /// A response was ended for its producer.
  var expired: (_ key: String, _ response: String) -> Void = { _, _ in }
  /// Counts what happens as a whole, or not at all.
  var turn = 0
  /// Every command that was executed or refused, by whom.
  var executed: (Client, _ command: String) -> Void = { _, _ in }
  private(set) var runID: String
  /// No two servers draw the same serial.
  private let number: Int

  private(set) var clients: OrderedDictionary<Int64, Client> = [:]
  private var lastID: Int64 = 0
  private var tracked: OrderedDictionary<String, OrderedSet<Int64>> = [:]
  private var scripts: Set<String> = []
  private(set) var serial: Int

  /// - Parameter number: of the server, where there are several.
  init(number: Int = 0) {
    (self.number, serial, runID) = (number, number * 10_000_000, "run-\(number)")
  }

  // MARK: connections

  func connect(send: @escaping (ByteBuffer) -> Void) -> Client {
    lastID += 1
    let client = Client(lastID, send: send)
    clients[lastID] = client
    return client
  }

  func disconnect(_ client: Client) { clients[client.id] = nil }

  /// As after a restart: no scripts, nothing tracked, another run.
  func restart() {
    scripts = []
    tracked = [:]
    serial += 1
    runID = "run-\(number)-\(serial)"
  }

  func receive(_ bytes: ByteBuffer, from client: Client) {
    var output = ByteBuffer()
    for command in client.parser.commands(bytes) where clients[client.id] != nil {
      answer(command, client).write(into: &output)
      while tracked.count > trackedKeys { notify(tracked.keys[pick(tracked.count)]) }
    }
    if output.readableBytes > 0 { client.send(output) }
  }

  // MARK: changes by others

  func stream(_ key: String) -> Stream? {
    if case .stream(let stream)? = keys[key] { stream } else { nil }
  }

  /// Replaces or removes what is there.
  func set(_ key: String, _ value: Value?) {
    keys[key] = value
    notify(key)
  }

  /// `XADD`; nil where Redis refuses the id.
  @discardableResult
  func add(_ key: String, id: EntryID? = nil, _ fields: [ByteBuffer]) -> StreamEntry? {
    var stream = stream(key) ?? Stream()
    let id = id ?? next(stream)
    guard id > stream.lastGenerated else { return nil }
    serial += 1
    stream.added += 1
    stream.lastGenerated = id
    let entry = StreamEntry(id: id, fields: fields, serial: serial, index: stream.added)
    stream.entries.append(entry)
    keys[key] = .stream(stream)
    added(key, entry)
    notify(key)
    return entry
  }

  /// `XTRIM MAXLEN = count`; what was removed.
  @discardableResult
  func trim(_ key: String, to count: Int) -> [StreamEntry] {
    guard var stream = stream(key), stream.entries.count > count else { return [] }
    let removed = Array(stream.entries.prefix(stream.entries.count - count))
    stream.entries.removeFirst(removed.count)
    set(key, .stream(stream))
    return removed
  }

  /// `XDEL`.
  func delete(_ key: String, _ id: EntryID) -> StreamEntry? {
    guard var stream = stream(key), let index = stream.entries.firstIndex(where: { $0.id == id }) else { return nil }
    let removed = stream.entries.remove(at: index)
    stream.maxDeleted = max(stream.maxDeleted, id)
    set(key, .stream(stream))
    return removed
  }

  func flushAll() {
    keys = [:]
    tracked = [:]
    for client in clients.values where client.redirect != nil { push(client, .null) }
  }

  private func next(_ stream: Stream) -> EntryID {
    let id = EntryID(UInt64(max(now(), 0)), 0)
    return id > stream.lastGenerated
      ? id : EntryID(stream.lastGenerated.milliseconds, stream.lastGenerated.sequence + 1)
  }

  // MARK: tracking

  /// Tells the armed, once.
  private func notify(_ key: String) {
    for id in tracked.removeValue(forKey: key) ?? [] {
      if let client = clients[id], client.redirect != nil { push(client, .array([.text(key)])) }
    }
  }

  private func push(_ client: Client, _ payload: ModelReply) {
    guard let id = client.redirect, let listener = clients[id], listener.isSubscriber, !losesNotice() else { return }
    var output = ByteBuffer()
    ModelReply.array([.text("message"), .text("__redis__:invalidate"), payload]).write(into: &output)
    listener.send(output)
  }

  // MARK: commands

  private struct Flags: OptionSet {
    let rawValue: Int
    static let write = Flags(rawValue: 1)
    static let read = Flags(rawValue: 2)
    static let denyOOM = Flags(rawValue: 4)
    static let loading = Flags(rawValue: 8)
    static let stale = Flags(rawValue: 16)
    static let allowBusy = Flags(rawValue: 32)
    static let passing: Flags = [.loading, .stale]
  }

  /// As `COMMAND` tells them of Redis 7.0. A script without flags of its own is refused where data are stale.
  private static let flags: [String: Flags] = [
    "PING": [], "AUTH": [.loading, .stale, .allowBusy], "SELECT": .passing, "CLIENT": .passing, "SUBSCRIBE": .passing,
    "MULTI": [.loading, .stale, .allowBusy], "EXEC": .passing, "TIME": .passing, "ROLE": .passing, "INFO": .passing,
    "XADD": [.write, .denyOOM], "DEL": .write, "HSET": [.write, .denyOOM], "SET": [.write, .denyOOM],
    "XREAD": .read, "XRANGE": .read, "XREVRANGE": .read, "XINFO": .read, "HGET": .read, "HMGET": .read,
    "HGETALL": .read, "HSCAN": .read, "TYPE": .read, "XTRIM": .write, "XDEL": .write,
    "CLUSTER": .passing, "ASKING": .passing, "EVAL": [], "EVALSHA": [], "SCRIPT": .stale, "FLUSHALL": .write,
  ]

  static func words(_ mood: Mood) -> String {
    switch mood {
    case .loading: "LOADING Redis is loading the dataset in memory"
    case .masterDown: "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
    case .busy: "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
    case .misconf:
      "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error."
    case .oom: "OOM command not allowed when used memory > 'maxmemory'."
    case .readOnly: "READONLY You can't write against a read only replica."
    case .noReplicas: "NOREPLICAS Not enough good replicas to write."
    }
  }

  /// What the mood makes of a command, in the order in which Redis asks.
  private func refusal(_ name: String, _ flags: Flags, _ client: Client) -> String? {
    guard let mood else { return nil }
    let isRefused =
      switch mood {
      case .oom: flags.contains(.denyOOM) || client.queue != nil && !["EXEC", "MULTI"].contains(name)
      case .misconf: flags.contains(.write) || name == "PING"
      case .noReplicas, .readOnly: flags.contains(.write)
      case .masterDown: !flags.contains(.stale)
      case .loading: !flags.contains(.loading)
      case .busy: !flags.contains(.allowBusy)
      }
    // A replica is one even where its data are stale.
    return isRefused ? Self.words(mood == .masterDown && flags.contains(.write) ? .readOnly : mood) : nil
  }

  private func answer(_ command: [ByteBuffer], _ client: Client) -> ModelReply {
    let name = String(buffer: command[0]).uppercased()
    turn += 1
    executed(client, name)
    var refused: String?
    if let words = refuse?(client, name) {
      refused = words
    } else if Self.flags[name] == nil {
      let arguments = command.dropFirst().map { "'\(String(buffer: $0))' " }.joined()
      refused = "ERR unknown command '\(String(buffer: command[0]))', with args beginning with: \(arguments)"
    } else if password != nil, !client.isAuthenticated, name != "AUTH" {
      refused = "NOAUTH Authentication required."
    } else if let route, let words = route(keys(of: name, command, client), client.isAsking) {
      client.isAsking = client.isAsking && client.queue != nil && name != "EXEC"
      if name == "EXEC" { client.queue = nil }
      client.isTransactionSpoilt = client.queue != nil
      return .error(words)
    } else if let words = refusal(name, Self.flags[name] ?? [], client) {
      refused = words
    } else if client.isSubscriber, !["PING", "SUBSCRIBE"].contains(name) {
      refused =
        "ERR Can't execute '\(name.lowercased())': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    }
    if let refused {
      if name == "EXEC", client.queue != nil {
        client.queue = nil
        return .error("EXECABORT Transaction discarded because of: \(refused)")
      }
      client.isTransactionSpoilt = client.queue != nil
      return .error(refused)
    }
    // It is good for one command, or for a transaction.
    if name != "MULTI", client.queue == nil || name == "EXEC" { client.isAsking = name == "ASKING" }
    if client.queue != nil, name != "EXEC", name != "MULTI" {
      client.queue?.append(command)
      return .status("QUEUED")
    }
    return run(name, Array(command.dropFirst()), client)
  }

  /// Each once.
  private func keys(of name: String, _ command: [ByteBuffer], _ client: Client) -> [String] {
    if name == "EXEC" {
      return Array(
        OrderedSet((client.queue ?? []).flatMap { keys(of: String(buffer: $0[0]).uppercased(), $0, client) }))
    }
    let words = command.dropFirst().map { $0.readableBytes < 256 ? String(buffer: $0) : "" }
    switch name {
    case "EVAL", "EVALSHA": return Array(words.dropFirst(2).prefix(words.count > 1 ? Int(words[1]) ?? 0 : 0))
    case "DEL": return words
    default:
      let flags = Self.flags[name] ?? []
      if flags.contains(.read) { return words.isEmpty ? [] : Array(readKeys(name, words)) }
      return flags.contains(.write) && name != "FLUSHALL" ? Array(words.prefix(1)) : []
    }
  }

  private func run(_ name: String, _ arguments: [ByteBuffer], _ client: Client) -> ModelReply {
    let words = arguments.map { $0.readableBytes < 256 ? String(buffer: $0) : "" }
    let first = words.first ?? ""
    if Self.flags[name]?.contains(.read) == true, client.redirect != nil {
      for key in readKeys(name, words) { tracked[key, default: []].append(client.id) }
    }
    switch name {
    case "PING": return client.isSubscriber ? .array([.text("pong"), .text("")]) : .status("PONG")
    case "AUTH":
      guard let password else {
        return .error(
          "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
        )
      }
      guard words.last == password else {
        return .error("WRONGPASS invalid username-password pair or user is disabled.")
      }
      client.isAuthenticated = true
      return .ok
    case "SELECT": return .ok
    case "CLIENT": return self.client(words, client)
    case "SUBSCRIBE":
      client.isSubscriber = true
      return .array([.text("subscribe"), .text(first), .integer(1)])
    case "MULTI":
      if client.queue != nil { return .error("ERR MULTI calls can not be nested") }
      (client.queue, client.isTransactionSpoilt) = ([], false)
      return .ok
    case "EXEC":
      guard let queue = client.queue else { return .error("ERR EXEC without MULTI") }
      client.queue = nil
      if client.isTransactionSpoilt {
        return .error("EXECABORT Transaction discarded because of previous errors.")
      }
      return .array(queue.map { run(String(buffer: $0[0]).uppercased(), Array($0.dropFirst()), client) })
    case "TIME":
      let time = now()
      return .array([.text("\(time / 1000)"), .text("\(time % 1000 * 1000)")])
    case "ROLE":
      return mood == .readOnly || isReplica
        ? .array([.text("slave"), .text("127.0.0.1"), .integer(1), .text("connected"), .integer(0)])
        : .array([.text("master"), .integer(0), .array([])])
    case "ASKING": return .ok
    case "CLUSTER": return clusterNodes.map { .text($0()) } ?? .error("ERR This instance has cluster support disabled")
    case "INFO": return .text("# Server\r\nrun_id:\(runID)\r\n")
    case "DEL":
      return .integer(
        Int64(words.filter { keys.removeValue(forKey: $0) != nil }.map { notify($0) }.count))
    case "SET":
      set(first, .string(arguments[1]))
      return .ok
    case "TYPE":
      switch keys[first] {
      case nil: return .status("none")
      case .stream: return .status("stream")
      case .hash: return .status("hash")
      case .string: return .status("string")
      }
    case "FLUSHALL":
      flushAll()
      return .ok
    case "XADD", "XTRIM", "XDEL", "XREAD", "XRANGE", "XREVRANGE", "XINFO": return streams(name, arguments, words)
    case "HSET", "HGET", "HMGET", "HGETALL", "HSCAN": return hashes(name, arguments, words)
    case "EVAL", "EVALSHA", "SCRIPT": return script(name, arguments, words, client)
    default: return .error("ERR not modelled: \(name)")
    }
  }

  private func readKeys(_ name: String, _ words: [String]) -> ArraySlice<String> {
    switch name {
    case "XREAD":
      guard let at = words.firstIndex(where: { $0.uppercased() == "STREAMS" }) else { return [] }
      return words[(at + 1)..<(at + 1 + (words.count - at - 1) / 2)]
    case "XINFO": return words[1..<2]
    default: return words[0..<1]
    }
  }

  private func client(_ words: [String], _ client: Client) -> ModelReply {
    switch words[0].uppercased() {
    case "SETNAME":
      client.name = words[1]
      return .ok
    case "ID": return .integer(client.id)
    case "TRACKING":
      guard words[1].uppercased() == "ON" else {
        client.redirect = nil
        return .ok
      }
      guard words.count == 4, let id = Int64(words[3]), clients[id] != nil else {
        return .error("ERR The client ID you want redirect to does not exist")
      }
      client.redirect = id
      return .ok
    default: return .error("ERR unknown subcommand '\(words[0])'. Try CLIENT HELP.")
    }
  }

  // MARK: streams

  static let wrongType = ModelReply.error("WRONGTYPE Operation against a key holding the wrong kind of value")

  private static func reply(_ entry: StreamEntry) -> ModelReply {
    .array([.text(entry.id.description), .array(entry.fields.map { .bytes($0) })])
  }

  private func streams(_ name: String, _ arguments: [ByteBuffer], _ words: [String]) -> ModelReply {
    if name == "XREAD" { return read(words) }
    let key = name == "XINFO" ? words[1] : words[0]
    switch keys[key] {
    case .stream, nil: break
    default: return Self.wrongType
    }
    let stream = stream(key) ?? Stream()
    switch name {
    case "XADD":
      var at = 1
      if words[at].uppercased() == "NOMKSTREAM" {
        if keys[key] == nil { return .null }
        at += 1
      }
      var cap: Int?
      if words[at].uppercased() == "MAXLEN" {
        cap = Int(words[at + 2])
        at += 3
      }
      let id = words[at] == "*" ? next(stream) : EntryID(words[at])
      guard let id, add(key, id: id, Array(arguments[(at + 1)...])) != nil else {
        return .error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
      }
      if let cap { trim(key, to: cap) }
      return .text(id.description)
    case "XTRIM": return .integer(Int64(trim(key, to: Int(words.last ?? "") ?? 0).count))
    case "XDEL":
      return .integer(Int64(words.dropFirst().compactMap { EntryID($0) }.compactMap { delete(key, $0) }.count))
    case "XINFO":
      guard keys[key] != nil else { return .error("ERR no such key") }
      var parts: [(String, ModelReply)] = [
        ("length", .integer(Int64(stream.entries.count))), ("radix-tree-keys", .integer(1)),
        ("radix-tree-nodes", .integer(2)), ("last-generated-id", .text(stream.lastGenerated.description)),
      ]
      if countsAdded {
        parts += [
          ("max-deleted-entry-id", .text(stream.maxDeleted.description)),
          ("entries-added", .integer(Int64(stream.added))),
          ("recorded-first-entry-id", .text((stream.entries.first?.id ?? .zero).description)),
        ]
      }
      parts += [
        ("groups", .integer(0)), ("first-entry", stream.entries.first.map(Self.reply) ?? .null),
        ("last-entry", stream.entries.last.map(Self.reply) ?? .null),
      ]
      return .array(parts.flatMap { [.text($0.0), $0.1] })
    default:
      func bound(_ word: String) -> EntryID {
        word == "-" ? .zero : word == "+" ? EntryID(.max, .max) : EntryID(word) ?? .zero
      }
      let isReverse = name == "XREVRANGE"
      let (low, high) = isReverse ? (bound(words[2]), bound(words[1])) : (bound(words[1]), bound(words[2]))
      let count = words.count > 4 ? Int(words[4]) ?? 0 : .max
      let start = Self.index(stream.entries, from: low)
      let end = Self.index(stream.entries, behind: high)
      guard start < end else { return .array([]) }
      let found = stream.entries[start..<end]
      return .array(
        isReverse
          ? found.suffix(min(count, found.count)).reversed().map(Self.reply) : found.prefix(count).map(Self.reply))
    }
  }

  private func read(_ words: [String]) -> ModelReply {
    guard let at = words.firstIndex(where: { $0.uppercased() == "STREAMS" }) else { return .error("ERR syntax error") }
    let count = words[0].uppercased() == "COUNT" ? Int(words[1]) ?? 0 : .max
    let (asked, size) = (Array(words[(at + 1)...]), (words.count - at - 1) / 2)
    var found: [ModelReply] = []
    for (key, after) in zip(asked.prefix(size), asked.suffix(size)) {
      switch keys[key] {
      case nil: continue
      case .stream(let stream):
        let entries = stream.entries[Self.index(stream.entries, behind: EntryID(after) ?? .zero)...].prefix(count)
        if !entries.isEmpty { found.append(.array([.text(key), .array(entries.map(Self.reply))])) }
      default: return Self.wrongType
      }
    }
    return found.isEmpty ? .nullArray : .array(found)
  }

  private static func index(_ entries: [StreamEntry], from id: EntryID) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].id < id { low = middle + 1 } else { high = middle }
    }
    return low
  }

  private static func index(_ entries: [StreamEntry], behind id: EntryID) -> Int {
    let at = index(entries, from: id)
    return at < entries.count && entries[at].id == id ? at + 1 : at
  }

  // MARK: hashes

  func hash(_ key: String) -> OrderedDictionary<String, ByteBuffer>? {
    switch keys[key] {
    case .hash(let hash): hash
    case nil: [:]
    default: nil
    }
  }

  func setField(_ key: String, _ field: String, _ value: String) {
    guard var hash = hash(key) else { return }
    hash[field] = ByteBuffer(string: value)
    set(key, .hash(hash))
  }

  private func hashes(_ name: String, _ arguments: [ByteBuffer], _ words: [String]) -> ModelReply {
    guard var hash = hash(words[0]) else { return Self.wrongType }
    func value(_ field: String) -> ModelReply { hash[field].map { .bytes($0) } ?? .null }
    func pairs(_ slice: some Sequence<OrderedDictionary<String, ByteBuffer>.Element>) -> ModelReply {
      .array(slice.flatMap { [.text($0.key), .bytes($0.value)] })
    }
    switch name {
    case "HSET":
      let before = hash.count
      for at in stride(from: 1, to: arguments.count - 1, by: 2) { hash[words[at]] = arguments[at + 1] }
      set(words[0], .hash(hash))
      return .integer(Int64(hash.count - before))
    case "HGET": return value(words[1])
    case "HMGET": return .array(words.dropFirst().map(value))
    case "HGETALL": return pairs(hash)
    default:
      let (from, count) = (Int(words[1]) ?? 0, words.count > 3 ? Int(words[3]) ?? 10 : 10)
      // A small hash is one piece, whatever COUNT says.
      let end = hash.count <= 128 ? hash.count : min(from + count, hash.count)
      return .array([
        .text(end >= hash.count ? "0" : "\(end)"), pairs(hash.elements[min(from, end)..<end]),
      ])
    }
  }

  // MARK: scripts

  private static let step = RedisScript(AppendScript.source)

  private func script(
    _ name: String, _ arguments: [ByteBuffer], _ words: [String], _ client: Client
  ) -> ModelReply {
    let source = String(buffer: arguments[name == "SCRIPT" ? 1 : 0])
    if name == "SCRIPT" {
      scripts.insert(RedisScript(source).hash)
      return .text(RedisScript(source).hash)
    }
    if name == "EVALSHA", !scripts.contains(source) { return .error("NOSCRIPT No matching script. Please use EVAL.") }
    guard words.count > 1, let count = Int(words[1]) else {
      return .error("ERR value is not an integer or out of range")
    }
    let names = Array(words[2..<(2 + count)])
    let rest = Array(arguments[(2 + count)...])
    if name == "EVALSHA" ? source == Self.step.hash : source == AppendScript.source {
      scripts.insert(Self.step.hash)
      return ModelAppendStep(server: self, keys: names, arguments: rest).run()
    }
    // The look: state and read at one moment.
    guard source.hasPrefix("return {redis.pcall('XINFO'"), let command = rest.first.map({ String(buffer: $0) }) else {
      return .error("ERR not modelled: \(source)")
    }
    return .array([
      run("XINFO", [ByteBuffer(string: "STREAM"), ByteBuffer(string: names[0])], client),
      run(command, Array(rest.dropFirst()), client),
    ])
  }

  /// What keeps a script from writing.
  var writeRefusal: String? {
    switch mood {
    case .oom, .misconf, .readOnly, .noReplicas: mood.map(Self.words)
    default: nil
    }
  }
}
