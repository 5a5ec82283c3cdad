import BatonProtocol
import NIOCore
import Testing

@testable import BatonCheck

@Suite struct RecordingTests {
  private let device = #"{"recording":1,"kind":"device","at":5,"session":"s","device":"d","offset":"0"}"# + "\n"
  private let frame =
    #"{"at":6,"type":"frame","frame":{"id":"1-0.0000002a","response":"r","n":2,"joined":2,"data":"ab"}}"# + "\n"

  private func read(_ text: String, by size: Int = .max) throws -> [RecordingLine] {
    var reader = RecordingReader(file: "f")
    var (lines, rest) = ([RecordingLine](), Array(text.utf8)[...])
    while !rest.isEmpty {
      lines += try reader.received(rest.prefix(size))
      rest = rest.dropFirst(size)
    }
    return try lines + reader.ended()
  }

  private func mistake(_ text: String) -> String? {
    do {
      _ = try read(text)
      return nil
    } catch {
      return "\(error)"
    }
  }

  @Test(arguments: [1, 7, 1000]) func readsBytesThatAreCutAnywhere(size: Int) throws {
    let shown = ShownEntry(
      offset: Offset(id: EntryID(1, 0), check: 42), response: "r", n: 2, joined: 2, data: Digest("ab"))
    #expect(
      try read(device + frame, by: size) == [
        .header(RecordingHeader(.device(.init(device: "d")), session: "s", at: 5)),
        .event(.frame(.entry(shown)), at: 6),
      ])
  }

  @Test func readsWhatIsWritten() throws {
    let binary = ByteBuffer(bytes: [0xF0, 0x9F])
    let pairs = [
      (name: ByteBuffer(string: "data"), value: binary),
      (name: ByteBuffer(string: "response"), value: ByteBuffer(string: "r")),
    ]
    let id = EntryID(3, 1)
    let written: [(ByteBuffer, RecordingLine)] = [
      (
        RecordingLines.header(RecordingHeader(.producer(response: "r"), session: "s", at: 1)),
        .header(RecordingHeader(.producer(response: "r"), session: "s", at: 1))
      ),
      (RecordingLines.opened(after: 3, at: 2), .event(.opened(after: 3), at: 2)),
      (RecordingLines.delta(n: 4, ByteBuffer(string: "é\"\n"), at: 2), .event(.delta(n: 4, Digest("é\"\n")), at: 2)),
      (RecordingLines.delta(n: 5, binary, at: 2), .event(.delta(n: 5, Digest([0xF0, 0x9F])), at: 2)),
      (RecordingLines.end("end", data: "{}", at: 2), .event(.end("end", data: Digest("{}")), at: 2)),
      (
        RecordingLines.acknowledged(n: 5, end: "end", id: id, at: 2),
        .event(.acknowledged(through: 5, end: "end", id: id), at: 2)
      ),
      (
        RecordingLines.header(RecordingHeader(.stream, session: "s", at: 9)),
        .header(RecordingHeader(.stream, session: "s", at: 9))
      ),
      (
        RecordingLines.info(StreamFacts(length: 2, entriesAdded: 3), at: 9),
        .event(.info(StreamFacts(length: 2, entriesAdded: 3)), at: 9)
      ),
      (
        RecordingLines.entry(id, pairs, at: 9),
        .event(
          .entry(
            StreamEntry(
              id: id, pairs: [(Array("data".utf8), [0xF0, 0x9F]), (Array("response".utf8), [UInt8(ascii: "r")])])),
          at: 9)
      ),
      (RecordingLines.elided(id, bytes: 7, at: 9), .event(.entry(StreamEntry(elided: id, bytes: 7)), at: 9)),
      (RecordingLines.plain("whole", at: 9), .event(.whole, at: 9)),
    ]
    #expect(try read(written.map { String(buffer: $0.0) }.joined()) == written.map(\.1))
  }

  @Test(arguments: [
    RecordingHeader.Asked(device: "d", start: .after(.zero), rollup: "off", until: "end"), .init(start: .end),
    .init(start: .newest(3)), .init(start: .response("r")), .init(start: .after(Offset(id: EntryID(1, 2), check: 3))),
  ])
  func readsWhatADeviceAsked(_ asked: RecordingHeader.Asked) throws {
    let header = RecordingHeader(.device(asked), session: "s", at: 1)
    #expect(try read(String(buffer: RecordingLines.header(header))) == [.header(header)])
  }

  @Test func readsDeletions() throws {
    let text = """
      {"recording":1,"kind":"deletions","at":1,"session":"s"}
      {"at":1,"type":"trimmed","before":"5-0"}
      {"at":1,"type":"deleted","ids":["7-0"]}
      {"at":1,"type":"deleted"}
      """
    #expect(
      try read(text).dropFirst() == [
        .event(.trimmed(before: EntryID(5, 0)), at: 1), .event(.deleted([EntryID(7, 0)]), at: 1),
        .event(.deletedSession, at: 1),
      ])
  }

  /// A process that was killed leaves half a line; the next one begins a recording of its own behind it.
  @Test func readsAsFarAsItGoes() throws {
    #expect(try read(device + frame + frame.prefix(30)).count == 2)
    #expect(try read(device + frame + frame.prefix(30) + "\n" + device + frame).count == 4)
    for length in 0...(device + frame).count {
      #expect(try read(String((device + frame).prefix(length))).count <= 2)
    }
  }

  @Test func passesOverWhatIsNotWanted() throws {
    var reader = RecordingReader(file: "f") { !$0.isDevice }
    let stream = #"{"at":1,"kind":"stream","session":"s","recording":1}"# + "\n"
    let text = device + frame + "{not looked at\n" + stream + frame.prefix(20) + "\n" + device + frame
    #expect(
      try reader.received(text.utf8) == [.header(RecordingHeader(.stream, session: "s", at: 1))] && reader.ended() == []
    )
  }

  @Test func saysWhereAndWhatIsWrong() {
    #expect(mistake("garbage") == "f: holds no recording")
    #expect(mistake("garbage\n") == "f: line 1 is not JSON")
    #expect(mistake(frame) == #"f: line 1 is no header: a recording begins with {"recording":1,"kind":…}"#)
    #expect(mistake(device + "{secret\n" + frame) == "f: line 2 is not JSON")
    #expect(mistake(device + frame + "{secret\n") == "f: line 3 is not JSON")
    #expect(mistake(device + "[1]\n") == "f: line 2 is no JSON object")
    #expect(mistake(device + #"{"at":1,"type":"frame"}"# + "\n") == "f: line 2 lacks 'frame'")
    #expect(mistake(device + #"{"type":"closed"}"# + "\n") == "f: line 2 lacks 'at'")
    #expect(
      mistake(device + #"{"at":1,"type":"delta","n":1,"data":"x"}"# + "\n")
        == "f: line 2 has the type 'delta', which a recording of its kind can't have")
    #expect(
      mistake(device + #"{"at":1,"type":"frame","frame":{"id":"1","data":"x"}}"# + "\n")
        == "f: line 2 has a 'frame.id' that is no offset")
    #expect(
      mistake(device + #"{"at":1,"type":"frame","frame":{"id":1,"data":"x"}}"# + "\n")
        == "f: line 2 has a 'frame.id' of a wrong kind, or lacks it")
    #expect(
      mistake(device + #"{"at":1,"type":"frame","frame":{"id":"1-0","n":9007199254740992,"data":"x"}}"# + "\n")
        == "f: line 2 has a 'frame.n' over 2⁵³−1")
    #expect(mistake(device + #"{"at":-1,"type":"closed"}"# + "\n") == "f: line 2 has an 'at' that is no time")
    #expect(
      mistake(#"{"recording":2,"kind":"device","at":5,"session":"s"}"# + "\n")
        == "f: line 1 is of version 2 of the format; this program reads 1")
    #expect(
      mistake(#"{"recording":1,"kind":"tape","at":5,"session":"s"}"# + "\n") == "f: line 1 has the unknown kind 'tape'")
  }

  // MARK: what entries become

  @Test func digestsOfPartsMakeTheWhole() {
    var whole = Digest("Hel")
    whole.append(Digest(""))
    whole.append(Digest("lo, 🌍"))
    #expect(whole == Digest("Hello, 🌍"))
    #expect(Digest("ab") != Digest("ba") && Digest([0]) != Digest([]) && Digest("a") != Digest("aa"))
  }

  /// The check of section 1, computed with Python's zlib.
  @Test func checksAreTheProtocols() {
    let entry = StreamEntry(id: EntryID(1, 0), pairs: fields(["data": "Hel", "response": "r1", "n": "1"]))
    #expect(entry.offset.description == "1-0.bf747c1f")
  }

  @Test func fieldsOfAWrongShapeAreOthers() throws {
    let entry = StreamEntry(
      id: EntryID(1, 0),
      pairs: fields(["n": "01", "joined": "0", "data": "x", "_hidden": "y", "data": "z", "kind": "k"]))
    let text =
      #"{"id":"1-0.00000000","data":"x","fields":{"kind":"k","n":"01","joined":{"base64":"MA=="},"data":["z"]}}"#
    let line = #"{"at":6,"type":"frame","frame":\#(text)}"#
    guard case .event(.frame(.entry(let shown)), _) = try read(device + line).last else {
      Issue.record("no frame")
      return
    }
    #expect(shown.fields == entry.shown.fields && shown.data == entry.shown.data && entry.shown.n == nil)
    #expect(!entry.isJoinable && delta(1).isJoinable)
  }
}
