import BatonProtocol
import Testing

@testable import BatonClient

@Suite struct TranscriptTests {
  private func transcript(_ frames: String...) throws -> SessionTranscript {
    var transcript = SessionTranscript()
    for frame in frames { transcript.apply(.frame(try Frame(json: frame))) }
    return transcript
  }

  @Test func putsResponsesTogether() throws {
    let transcript = try transcript(
      #"{"id":"1-0","event":"start","response":"r1"}"#,
      #"{"id":"2-0","event":"token","response":"r1","n":1,"data":"Hel"}"#,
      #"{"id":"3-0","event":"token","response":"r2","n":1,"data":"Oth"}"#,
      #"{"id":"4-0","event":"token","response":"r1","n":9,"joined":8,"data":"lo"}"#,
      #"{"id":"5-0","event":"note","response":"r1","data":"not text"}"#,
      #"{"id":"6-0","event":"end","response":"r1","data":"{}"}"#)
    #expect(transcript.responses.map(\.name) == ["r1", "r2"])
    #expect(transcript.responses.map(\.text) == ["Hello", "Oth"])
    #expect(transcript.responses.map(\.ending) == [.end, nil])
  }

  @Test func onlyPartsOfTextAreText() throws {
    let transcript = try transcript(
      #"{"id":"1-0","event":"token","response":"r1","part":"reasoning:0","n":1,"data":"hm"}"#,
      #"{"id":"2-0","event":"token","response":"r1","part":"text:0","n":2,"data":"a"}"#,
      #"{"id":"3-0","event":"token","response":"r1","n":3,"data":"b"}"#,
      #"{"id":"4-0","event":"token","response":"r1","part":"text:0","n":2,"data":"a"}"#)
    #expect(transcript.responses.map(\.text) == ["ab"])
  }

  @Test func aDeltaThatWasAppendedTwiceIsShownOnce() throws {
    let transcript = try transcript(
      #"{"id":"1-0","event":"token","response":"r1","n":1,"data":"a"}"#,
      #"{"id":"2-0","event":"token","response":"r1","n":1,"data":"a"}"#,
      #"{"id":"3-0","event":"token","response":"r1","n":2,"data":"b"}"#)
    #expect(transcript.responses.map(\.text) == ["ab"])
  }

  @Test func whatAnotherOneSupersedesIsNotShown() throws {
    let frames = [
      #"{"id":"1-0.00000001","event":"token","response":"r1","n":1,"data":"a"}"#,
      #"{"id":"2-0.00000002","event":"start","response":"r2","data":"{\"supersedes\":\"r1\"}"}"#,
      #"{"id":"3-0.00000003","event":"error","response":"r1","data":"{\"reason\":\"superseded\"}"}"#,
      #"{"id":"4-0.00000004","event":"token","response":"r2","n":1,"data":"x"}"#,
    ]
    var transcript = SessionTranscript()
    for frame in frames { transcript.apply(.frame(try Frame(json: frame))) }
    #expect(transcript.responses.map(\.name) == ["r2"])
    let reset = #"{"type":"reset","reason":"ahead","from":"1-0.00000001","offset":"1-0.00000001"}"#
    transcript.apply(.frame(try Frame(json: reset)))
    #expect(transcript.responses.map(\.text) == ["a"])
    #expect(try self.transcript(frames[2]).responses.isEmpty)
  }

  @Test func aSplitCharacterComesTogether() throws {
    let transcript = try transcript(
      #"{"id":"1-0","event":"token","data64":"8J8="}"#, #"{"id":"2-0","event":"token","data64":"mYI="}"#)
    #expect(transcript.responses.map(\.text) == ["🙂"])
  }

  @Test func aResetDropsWhatCameAfterItsPlace() throws {
    let entries = [
      #"{"id":"1-0.00000001","event":"token","response":"r1","n":1,"data":"a"}"#,
      #"{"id":"2-0.00000002","event":"token","response":"r1","n":2,"data":"b"}"#,
      #"{"id":"3-0.00000003","event":"end","response":"r1"}"#,
      #"{"id":"4-0.00000004","event":"token","response":"r2","n":1,"data":"c"}"#,
    ]
    func after(_ from: String) throws -> SessionTranscript {
      let reset = #"{"type":"reset","reason":"ahead","from":"\#(from)","offset":"\#(from)"}"#
      return try transcript(entries[0], entries[1], entries[2], entries[3], reset)
    }
    #expect(try after("0").responses.isEmpty)
    #expect(try after("1-0.00000001").responses.map(\.text) == ["a"])
    #expect(try after("1-0.00000001").responses.map(\.ending) == [nil])
    #expect(try after("3-0.00000003").responses.map(\.text) == ["ab"])
    #expect(try after("3-0.00000003").responses.map(\.ending) == [.end])
    #expect(try after("4-0.00000004").responses.map(\.text) == ["ab", "c"])
  }
}

@Suite struct FrameTests {
  @Test func readsFields() throws {
    let frame = try Frame(
      json: #"{"id":"1-2.0000ABCD","fields":{"a":"x","b":{"base64":"/w=="},"c":["1",{"base64":""}]}}"#)
    guard case .entry(let entry) = frame.kind else {
      Issue.record("no entry")
      return
    }
    #expect(entry.id == Offset(id: EntryID(1, 2), check: 0xABCD))
    #expect(entry.event == "token")
    #expect(entry.data == nil)
    #expect(entry.joined == 1)
    #expect(entry.fields == ["a": [.init("x".utf8)], "b": [.init([0xFF])], "c": [.init("1".utf8), .init()]])
  }

  @Test(arguments: ["", "{", "nul", "{\"id\":}"])
  func refusesWhatIsNoJSON(text: String) {
    #expect(throws: Frame.NotJSON.self) { try Frame(json: text) }
  }

  @Test func numbersBeyondDoubleStayExact() throws {
    let frame = try Frame(json: #"{"id":"18446744073709551615-18446744073709551615","n":9007199254740991}"#)
    guard case .entry(let entry) = frame.kind else {
      Issue.record("no entry")
      return
    }
    #expect(entry.id.id == EntryID(.max, .max))
    #expect(entry.n == 9_007_199_254_740_991)
  }
}
