/// The parts that a cluster's keys are spread over.
package enum RedisSlot {
  package static let count = 16_384

  /// Of a key, or of what stands in its first pair of braces that is not empty.
  package static func of(_ key: String) -> Int {
    let bytes = Array(key.utf8)
    var tag = bytes[...]
    if let open = bytes.firstIndex(of: UInt8(ascii: "{")),
      let close = bytes[(open + 1)...].firstIndex(of: UInt8(ascii: "}")), close > open + 1
    {
      tag = bytes[(open + 1)..<close]
    }
    return Int(crc16(tag)) % count
  }

  /// CRC16-CCITT (XMODEM), as the cluster specification has it.
  private static func crc16(_ bytes: ArraySlice<UInt8>) -> UInt16 {
    var crc: UInt16 = 0
    for byte in bytes {
      crc ^= UInt16(byte) << 8
      for _ in 0..<8 { crc = crc & 0x8000 != 0 ? crc << 1 ^ 0x1021 : crc << 1 }
    }
    return crc
  }
}

/// What one node of a cluster believes: the answer to `CLUSTER NODES`. It is asked for rather than `CLUSTER SLOTS` because
/// it tells the epochs, by which nodes that disagree are judged as the cluster itself does it.
package struct ClusterView: Sendable {
  package struct Node: Sendable, Equatable {
    /// 40 hex digits, for the node's life.
    package var id: String
    /// Nil where none is known.
    package var address: RedisURL.Address?
    package var isMaster: Bool
    /// Of the node's claims to its slots; the greater one wins.
    package var epoch: UInt64
    package var slots: [ClosedRange<Int>]
  }

  package var nodes: [Node]
  /// Who has answered.
  package var teller: String?
  /// The teller's slots that are on their way to other masters.
  package var leaving: Set<Int> = []

  package init(nodes: [Node], teller: String? = nil) { (self.nodes, self.teller) = (nodes, teller) }

  /// - Parameters:
  ///   - asked: where: a node may not know its own address.
  ///   - usesTLS: nodes are then called by the names that they announce, as their certificates are for those.
  package init(_ reply: RESPReply, asked: RedisURL.Address, usesTLS: Bool) throws(RedisError) {
    guard let text = try reply.accepted().text else { throw .unexpectedReply("CLUSTER NODES") }
    nodes = []
    for line in text.split(whereSeparator: \.isNewline) {
      let words = line.split(separator: " ")
      guard words.count >= 8, let epoch = UInt64(words[6]) else { throw .unexpectedReply("CLUSTER NODES") }
      let flags = words[2].split(separator: ",")
      if flags.contains("handshake") { continue }
      var address = flags.contains("noaddr") ? nil : Self.address(words[1], usesTLS: usesTLS)
      if flags.contains("myself") {
        teller = String(words[0])
        address = address ?? asked
        leaving = Set(words.dropFirst(8).compactMap(Self.leavingSlot))
      }
      nodes.append(
        Node(
          id: String(words[0]), address: address, isMaster: flags.contains("master"), epoch: epoch,
          slots: words.dropFirst(8).compactMap(Self.slots)))
    }
  }

  /// `ip:port@busport[,hostname[,name=value…]]`
  private static func address(_ text: Substring, usesTLS: Bool) -> RedisURL.Address? {
    let parts = text.split(separator: ",", omittingEmptySubsequences: false)
    let place = parts[0].prefix { $0 != "@" }
    guard let colon = place.lastIndex(of: ":"), let port = Int(place[place.index(after: colon)...]), port > 0 else {
      return nil
    }
    let announced = parts.count > 1 && !parts[1].contains("=") ? parts[1] : ""
    let host = usesTLS && !announced.isEmpty || colon == place.startIndex ? announced : place[..<colon]
    return host.isEmpty ? nil : .tcp(host: String(host), port: port)
  }

  /// `[93->-id]`
  private static func leavingSlot(_ text: Substring) -> Int? {
    guard text.hasPrefix("["), let arrow = text.firstRange(of: "->-") else { return nil }
    return Int(text[text.index(after: text.startIndex)..<arrow.lowerBound])
  }

  /// `5`, `0-5460`; slots on their way, `[93->-id]`, still belong to whom they leave.
  private static func slots(_ text: Substring) -> ClosedRange<Int>? {
    let ends = text.split(separator: "-")
    guard let first = ends.first.flatMap({ Int($0) }), let last = ends.last.flatMap({ Int($0) }), ends.count <= 2,
      0 <= first, first <= last, last < RedisSlot.count
    else { return nil }
    return first...last
  }
}

/// Which master has which slots, put together from what several nodes believe.
package struct ClusterMap: Sendable {
  private struct Claim: Sendable {
    var owner: String
    /// The greatest that anybody had who owned it.
    var epoch: UInt64
    /// The owner's own.
    var ownersEpoch: UInt64
  }

  private var claims = [Claim?](repeating: nil, count: RedisSlot.count)
  private var addresses: [String: RedisURL.Address] = [:]
  private var slotCounts: [String: Int] = [:]
  /// By the last that was heard.
  private var replicas: Set<String> = []
  /// What nodes said that has been taken in since anything changed.
  private var views: [String: [ClusterView.Node]] = [:]

  package init() {}

  /// Those who have slots.
  package var masters: Set<String> { Set(slotCounts.keys) }
  /// Of every node that was told of, replicas among them.
  package var known: [RedisURL.Address] { addresses.values.sorted { $0.description < $1.description } }

  package func owner(of slot: Int) -> String? { claims[slot]?.owner }
  package func address(of node: String) -> RedisURL.Address? { addresses[node] }
  package func node(at address: RedisURL.Address) -> String? { addresses.first { $0.value == address }?.key }
  /// Whether slots may be on their way to it: it has some, or nothing says that it is a replica.
  package func isMaster(_ node: String) -> Bool { slotCounts[node] != nil || !replicas.contains(node) }
  package func has(_ node: String, _ slot: Int) -> Bool { claims[slot]?.owner == node }

  /// What to write between the braces of a key that is to be the node's own: nothing that a name of something could be.
  /// Nil where the node has no slots.
  package func tag(of node: String, prefix: String) -> String? {
    guard masters.contains(node) else { return nil }
    return (0..<16 * RedisSlot.count).lazy.map { "!\($0)" }.first { has(node, RedisSlot.of("\(prefix){\($0)}")) }
  }

  /// Takes in what one node believes, as far as it is no older than what is known: who is cut off, or was, moves nothing.
  /// - Returns: Whether a slot has another owner now, or an owner another address.
  package mutating func learned(_ view: ClusterView) -> Bool {
    replicas = Set(view.nodes.lazy.filter { !$0.isMaster }.map(\.id))
    // Said again it changes nothing: there are 16,384 slots.
    if let teller = view.teller, views[teller] == view.nodes { return false }
    let isChanged = took(view)
    if isChanged { views.removeAll() }
    if let teller = view.teller { views[teller] = view.nodes }
    return isChanged
  }

  private mutating func took(_ view: ClusterView) -> Bool {
    let known = Dictionary(view.nodes.map { ($0.id, $0) }) { $1 }
    var claimed = [ClusterView.Node?](repeating: nil, count: RedisSlot.count)
    for node in view.nodes where node.isMaster {
      for range in node.slots { for slot in range { claimed[slot] = node } }
    }
    var isChanged = false
    for slot in 0..<RedisSlot.count {
      let new = claimed[slot]
      guard let old = claims[slot] else {
        guard let new else { continue }
        claims[slot] = Claim(owner: new.id, epoch: new.epoch, ownersEpoch: new.epoch)
        isChanged = true
        continue
      }
      if let new, new.id == old.owner {
        claims[slot]?.epoch = max(old.epoch, new.epoch)
        claims[slot]?.ownersEpoch = max(old.ownersEpoch, new.epoch)
        continue
      }
      // The owner itself does not claim it, or who knows it as it is now, or has forgotten it. What it said before it became
      // the owner may come later than what others say of that.
      let since = view.teller == old.owner ? old.ownersEpoch : old.epoch
      let isGiven = known[old.owner].map { $0.epoch >= since } ?? true
      if let new, new.epoch > old.epoch || isGiven {
        claims[slot] = Claim(owner: new.id, epoch: max(new.epoch, old.epoch), ownersEpoch: new.epoch)
        isChanged = true
      } else if new == nil, isGiven {
        claims[slot] = nil
        isChanged = true
      }
    }
    if isChanged {
      slotCounts = claims.reduce(into: [:]) { counts, claim in if let claim { counts[claim.owner, default: 0] += 1 } }
    }
    for node in view.nodes {
      guard let address = node.address, addresses[node.id] != address else { continue }
      addresses[node.id] = address
      views.removeAll()
      isChanged = isChanged || slotCounts[node.id] != nil
    }
    let before = addresses.count
    addresses = addresses.filter { known[$0.key] != nil || slotCounts[$0.key] != nil }
    if addresses.count < before { views.removeAll() }
    return isChanged
  }
}
