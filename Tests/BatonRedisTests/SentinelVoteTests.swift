import NIOCore
import Testing

@testable import BatonRedis

/// Three Sentinels; the master `a` writes the history `A`.
@Suite struct SentinelVoteTests {
  private let vote = Ballot()
  private let a = server("a")
  private let b = server("b")
  private let c = server("c")
  private let isA = ServerIdentity(runID: "1", replicationID: "A")
  private let isPromoted = ServerIdentity(runID: "2", replicationID: "B", previousReplicationID: "A")
  private let isStranger = ServerIdentity(runID: "3", replicationID: "C")

  private static func server(_ name: String) -> RedisURL.Address { .tcp(host: name, port: 1) }
  private func at(_ milliseconds: Int64) -> NIODeadline {
    .uptimeNanoseconds(1_000_000_000) + .milliseconds(milliseconds)
  }

  private func follow() {
    for number in 0..<3 { _ = vote.said(number, a, at: at(0)) }
    _ = vote.examined(a, isA, at: at(1))
    vote.answered(isA)
    #expect(vote.master == a)
  }

  @Test func whomMostNameIsAskedAtOnce() {
    #expect(vote.said(0, a, at: at(0)) == [], "others may say otherwise")
    #expect(vote.said(2, a, at: at(1)) == [.examine(a)])
    #expect(vote.examined(a, isA, at: at(2)) == [.follow(a)])
  }

  @Test func oneSentinelThatAnswersIsEnoughToBegin() {
    #expect(vote.said(0, a, at: at(0)) == [])
    #expect(vote.timePassed(now: at(499)) == [] && vote.timePassed(now: at(500)) == [.examine(a)])
    #expect(vote.examined(a, isA, at: at(501)) == [.follow(a)])
  }

  @Test func whoeverIsNoMasterIsNotFollowed() {
    for number in 0..<3 { _ = vote.said(number, a, at: at(0)) }
    #expect(vote.examined(a, ServerIdentity(runID: "1", isMaster: false), at: at(1)) == [])
    #expect(vote.timePassed(now: at(100)) == [] && vote.timePassed(now: at(251)) == [.examine(a)])
    #expect(vote.examined(a, nil, at: at(252)) == [] && vote.master == nil)
  }

  @Test func aPromotedReplicaIsFollowedAtTheFirstWord() {
    follow()
    #expect(vote.said(1, b, at: at(1000)) == [.examine(b)])
    #expect(vote.examined(b, isPromoted, at: at(1001)) == [.follow(b)] && vote.master == b)
    // The old one still answers as a master, and two have not heard.
    #expect(vote.timePassed(now: at(2000)) == [.examine(a)])
    #expect(vote.examined(a, isA, at: at(2001)) == [] && vote.master == b)
  }

  @Test func oneThatLiesMovesNobodyWhileTheMasterAnswers() {
    follow()
    #expect(vote.said(1, c, at: at(1000)) == [.examine(c)])
    #expect(vote.examined(c, isStranger, at: at(1001)) == [] && vote.master == a)
    #expect(vote.timePassed(now: at(9000)) == [.examine(c)])
    #expect(vote.examined(c, isStranger, at: at(9001)) == [] && vote.master == a)
    #expect(vote.said(2, c, at: at(9002)) == [.examine(c)])
    #expect(vote.examined(c, isStranger, at: at(9003)) == [.follow(c)], "most of all Sentinels name it")
  }

  @Test func withoutAMasterWhoeverIsLeftIsBelievedInTheEnd() {
    follow()
    _ = vote.fellSilent(0, at: at(900))
    _ = vote.fellSilent(2, at: at(900))
    #expect(vote.said(1, c, at: at(1000)) == [.examine(c)] && vote.lost(at: at(1000)) == [])
    #expect(vote.examined(c, isStranger, at: at(1001)) == [])
    #expect(
      vote.timePassed(now: at(4001)) == [.examine(c)] && vote.examined(c, isStranger, at: at(4002)) == [.follow(c)])
  }

  @Test func theSameServerUnderAnotherNameIsNoOther() {
    follow()
    _ = vote.said(0, b, at: at(1000))
    #expect(vote.examined(b, isA, at: at(1001)) == [] && vote.master == a)
  }

  @Test func aServerSaysWhoItIs() throws {
    func identity(_ texts: String...) throws -> ServerIdentity {
      var replies: [RESPReply] = []
      for text in texts {
        let text = text.hasPrefix("-") || text.hasPrefix("*") ? text : "$\(text.utf8.count)\r\n\(text)"
        try RESPReader(limits: RESPLimits()).read(ByteBuffer(string: text + "\r\n")) { replies.append($0) }
      }
      return try ServerIdentity(replies)
    }
    let master = "*3\r\n$6\r\nmaster\r\n:1\r\n*0"
    let server = "# Server\r\nrun_id:12\r\n"
    let replication = "role:slave\r\nmaster_replid:A\r\nmaster_replid2:B\r\n"
    #expect(
      try identity(master, server, replication)
        == ServerIdentity(runID: "12", replicationID: "A", previousReplicationID: "B"))
    #expect(try !identity("-NOPERM x", server, replication).isMaster)
    #expect(try identity("-NOPERM x", "-NOPERM x", "-NOPERM x") == ServerIdentity(runID: nil))
    #expect(throws: RedisError.self) { try identity("-LOADING x", server, replication) }
  }
}

private final class Ballot {
  private var vote = SentinelVote(sentinels: 3)

  var master: RedisURL.Address? { vote.master }
  func said(_ sentinel: Int, _ address: RedisURL.Address?, at now: NIODeadline) -> [SentinelVote.Action] {
    vote.said(sentinel, address, at: now)
  }
  func fellSilent(_ sentinel: Int, at now: NIODeadline) -> [SentinelVote.Action] { vote.fellSilent(sentinel, at: now) }
  func examined(_ address: RedisURL.Address, _ found: ServerIdentity?, at now: NIODeadline) -> [SentinelVote.Action] {
    vote.examined(address, found, at: now)
  }
  func answered(_ identity: ServerIdentity) { vote.answered(identity) }
  func lost(at now: NIODeadline) -> [SentinelVote.Action] { vote.lost(at: now) }
  func timePassed(now: NIODeadline) -> [SentinelVote.Action] { vote.timePassed(now: now) }
}
