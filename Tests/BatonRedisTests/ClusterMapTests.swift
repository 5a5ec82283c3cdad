import NIOCore
import Testing

@testable import BatonRedis

@Suite struct ClusterMapTests {
  @Test(arguments: [
    ("123456789", 12739), ("foo", 12182), ("{user1000}.following", 3443), ("{user1000}.followers", 3443),
    ("foo{}{bar}", 8363), ("foo{{bar}}zap", 4015), ("foo{bar}{zap}", 5061), ("", 0),
  ])
  func slotsAreThoseOfTheSpecification(key: String, slot: Int) { #expect(RedisSlot.of(key) == slot) }

  @Test func readsWhatANodeTells() throws {
    let text = """
      07c3 127.0.0.1:30004@31004,host-4 slave e7d1 0 1426238317239 4 connected
      67ed 127.0.0.1:30002@31002,host-2,shard-id=69bc master - 0 1426238316232 2 connected 5461-10922 [5461->-e7d1]
      292f 127.0.0.1:30003@31003 master,fail - 0 1426238318243 3 connected 10923-16383
      6ec2 127.0.0.1:30005@31005 handshake - 0 1426238316232 5 connected
      824f :0@0 slave,noaddr 292f 0 1426238317741 6 connected
      e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5459 5460 [77-<-67ed] [94->-67ed]

      """
    func view(_ usesTLS: Bool) throws -> ClusterView {
      let reply = try reply("$\(text.utf8.count)\r\n\(text)\r\n")
      return try ClusterView(reply, asked: .tcp(host: "here", port: 1), usesTLS: usesTLS)
    }
    let nodes = try view(false).nodes
    #expect(nodes.map(\.id) == ["07c3", "67ed", "292f", "824f", "e7d1"])
    #expect(nodes.map(\.isMaster) == [false, true, true, false, true])
    #expect(nodes.map(\.slots) == [[], [5461...10922], [10923...16383], [], [0...5459, 5460...5460]])
    #expect(nodes.map(\.epoch) == [4, 2, 3, 6, 1])
    #expect(
      nodes.map(\.address?.description) == ["127.0.0.1:30004", "127.0.0.1:30002", "127.0.0.1:30003", nil, "here:1"])
    #expect(
      try view(true).nodes.map(\.address?.description).prefix(3) == ["host-4:30004", "host-2:30002", "127.0.0.1:30003"])
    #expect(try view(false).teller == "e7d1")
    #expect(try view(false).leaving == [94], "of its own slots, and not those that come")
  }

  @Test(arguments: ["$3\r\nabc\r\n", "-ERR This instance has cluster support disabled\r\n", ":1\r\n"])
  func refusesWhatIsNoMap(text: String) throws {
    let reply = try reply(text)
    #expect(throws: RedisError.self) { try ClusterView(reply, asked: .tcp(host: "h", port: 1), usesTLS: false) }
  }

  private func node(_ id: String, _ epoch: UInt64, _ slots: ClosedRange<Int>?...) -> ClusterView.Node {
    ClusterView.Node(
      id: id, address: .tcp(host: id, port: 1), isMaster: !slots.isEmpty, epoch: epoch, slots: slots.compactMap { $0 })
  }

  @Test func aPromotedReplicaHasTheSlotsWhateverOneThatIsCutOffBelieves() {
    let map = Atlas()
    let before = ClusterView(nodes: [node("a", 1, 0...99), node("b", 2, 100...16383), node("r", 1)], teller: "a")
    let first = map.learned(before)
    #expect(first && map.masters == ["a", "b"] && map.owner(of: 5) == "a")
    #expect(!map.learned(before))
    let after = ClusterView(nodes: [node("a", 7), node("b", 2, 100...16383), node("r", 7, 0...99)], teller: "b")
    #expect(map.learned(after) && map.owner(of: 5) == "r" && map.masters == ["r", "b"])
    #expect(!map.learned(before), "an old view moves nothing back")
    #expect(map.isMaster("r") && map.isMaster("not heard of"))
    #expect(map.owner(of: 5) == "r")
  }

  @Test func whatAReplicaSaidBeforeItWasPromotedMayComeAfterwards() {
    let map = Atlas()
    let before = [node("a", 5, 0...99), node("b", 2, 100...16383), node("r", 5)]
    let after = [node("a", 5), node("b", 2, 100...16383), node("r", 7, 0...99)]
    _ = map.learned(ClusterView(nodes: before, teller: "a"))
    #expect(map.learned(ClusterView(nodes: after, teller: "b")) && map.owner(of: 5) == "r")
    #expect(!map.learned(ClusterView(nodes: before, teller: "r")) && map.owner(of: 5) == "r")
  }

  @Test func aSlotThatWasGivenAwayIsItsNewOwners() {
    let map = Atlas()
    _ = map.learned(ClusterView(nodes: [node("a", 5, 0...99), node("b", 3, 100...16383)], teller: "a"))
    // The owner was told first; the new one has no greater epoch yet.
    let given = ClusterView(nodes: [node("a", 5, 0...98), node("b", 3, 99...16383)], teller: "a")
    #expect(map.learned(given) && map.owner(of: 99) == "b" && map.owner(of: 98) == "a")
    // A third one has not heard of it.
    let late = ClusterView(nodes: [node("a", 5, 0...99), node("b", 3, 100...16383), node("c", 4, nil)], teller: "c")
    #expect(!map.learned(late) && map.owner(of: 99) == "b")
    let bumped = ClusterView(nodes: [node("a", 5, 0...98), node("b", 6, 99...16383)], teller: "b")
    #expect(!map.learned(bumped) && map.owner(of: 99) == "b")
    #expect(!map.learned(late))
  }

  @Test func slotsOfNobodyAreNobodys() {
    let map = Atlas()
    _ = map.learned(ClusterView(nodes: [node("a", 1, 0...16383)], teller: "a"))
    #expect(map.learned(ClusterView(nodes: [node("a", 1, 1...16383)], teller: "a")) && map.owner(of: 0) == nil)
    // A cluster that was built anew, with epochs from the start.
    #expect(map.learned(ClusterView(nodes: [node("x", 1, 0...16383)], teller: "x")) && map.masters == ["x"])
  }

  @Test func anOwnersNewAddressIsAChange() {
    let map = Atlas()
    _ = map.learned(ClusterView(nodes: [node("a", 1, 0...16383)], teller: "a"))
    var moved = node("a", 1, 0...16383)
    moved.address = .tcp(host: "a", port: 2)
    #expect(map.learned(ClusterView(nodes: [moved], teller: "a")) && map.address(of: "a") == .tcp(host: "a", port: 2))
    #expect(map.node(at: .tcp(host: "a", port: 2)) == "a")
  }

  private func reply(_ text: String) throws -> RESPReply {
    var replies: [RESPReply] = []
    try RESPReader(limits: RESPLimits()).read(ByteBuffer(string: text)) { replies.append($0) }
    return try #require(replies.first)
  }
}

private final class Atlas {
  private(set) var map = ClusterMap()

  var masters: Set<String> { map.masters }
  func learned(_ view: ClusterView) -> Bool { map.learned(view) }
  func owner(of slot: Int) -> String? { map.owner(of: slot) }
  func address(of node: String) -> RedisURL.Address? { map.address(of: node) }
  func node(at address: RedisURL.Address) -> String? { map.node(at: address) }
  func isMaster(_ node: String) -> Bool { map.isMaster(node) }
}
