import NIOCore
import TestSupport
import Testing

@testable import BatonWebSocket

/// What came out of a connection: events, then at most one violation.
struct Outcome: Equatable {
  var events: [WebSocketEvent] = []
  var violation: CloseCode?
}

/// Feeds bytes in pieces through the decoder and the assembler.
enum Receiver {
  static func receive(
    _ pieces: [[UInt8]], role: WebSocketRole = .client, limits: WebSocketLimits = WebSocketLimits()
  ) throws -> Outcome {
    var assembler = MessageAssembler(role: role, limits: limits)
    var decoder = assembler.makeDecoder()
    var outcome = Outcome()
    do throws(WebSocketViolation) {
      for piece in pieces {
        decoder.feed(ByteBuffer(bytes: piece))
        while let frame = try decoder.next() {
          if let event = try assembler.receive(frame) { outcome.events.append(event) }
        }
      }
    } catch {
      outcome.violation = error.code
    }
    return outcome
  }
}

@Suite struct MessageAssemblerTests {
  @Test func readsTheExamplesOfTheSpecification() throws {
    #expect(try Receiver.receive([bytes("81 05 48 65 6c 6c 6f")]) == Outcome(events: [.text(text("Hello"))]))
    #expect(
      try Receiver.receive([bytes("81 85 37 fa 21 3d 7f 9f 4d 51 58")], role: .server)
        == Outcome(events: [.text(text("Hello"))]))
    #expect(
      try Receiver.receive([bytes("01 03 48 65 6c"), bytes("89 05 48 65 6c 6c 6f"), bytes("80 02 6c 6f")])
        == Outcome(events: [.ping(text("Hello")), .text(text("Hello"))]))
    let long = [UInt8](repeating: 7, count: 256)
    #expect(
      try Receiver.receive([bytes("82 7e 01 00") + long]) == Outcome(events: [.binary(ByteBuffer(bytes: long))]))
  }

  @Test(
    arguments: [
      ("81 00", [.text(text(""))]),
      ("82 01 00", [.binary(ByteBuffer(bytes: [0]))]),
      ("8a 00", [.pong(text(""))]),
      ("01 00 00 00 80 00", [.text(text(""))]),
      ("88 00", [.close(nil, reason: "")]),
      ("88 02 03 e8", [.close(.normal, reason: "")]),
      ("88 04 0f a0 6f 6b", [.close(4000, reason: "ok")]),
      // U+1F600 split over three frames.
      ("01 01 f0  00 02 9f 98  80 01 80", [.text(text("😀"))]),
    ] as [(String, [WebSocketEvent])])
  func accepts(hex: String, events: [WebSocketEvent]) throws {
    #expect(try Receiver.receive([bytes(hex)]) == Outcome(events: events))
  }

  @Test(arguments: [
    ("81 80 00 00 00 00", 1002, "masked frame from a server"),
    ("c1 00", 1002, "reserved bit 1"),
    ("a1 00", 1002, "reserved bit 2"),
    ("91 00", 1002, "reserved bit 3"),
    ("83 00", 1002, "opcode 3"),
    ("8b 00", 1002, "opcode 11"),
    ("80 00", 1002, "continuation of nothing"),
    ("01 01 61 81 01 62", 1002, "a message within a message"),
    ("01 01 61 80 01 62 80 00", 1002, "continuation after the end"),
    ("09 00", 1002, "fragmented ping"),
    ("08 00", 1002, "fragmented close"),
    ("89 7e 00 7e", 1002, "ping of 126 bytes"),
    ("81 7e 00 01 61", 1002, "a length of one byte in two"),
    ("82 7e 00 7d", 1002, "a length of one byte in two"),
    ("82 7f 00 00 00 00 00 00 ff ff", 1002, "a length of two bytes in eight"),
    ("82 7f 80 00 00 00 00 00 00 00", 1002, "a length over 63 bits"),
    ("c1 05", 1002, "before the payload has come: reserved bit"),
    ("83 05", 1002, "before the payload has come: opcode"),
    ("81 85", 1002, "before the payload has come: masked"),
    ("88 01 03", 1002, "close with half a code"),
    ("81 01 ff", 1007, "never UTF-8"),
    ("81 01 c3", 1007, "ends within a character"),
    ("01 02 c3 28", 1007, "fails before the end of the message"),
    ("81 03 ed a0 80", 1007, "surrogate"),
    ("81 02 c0 80", 1007, "overlong"),
    ("81 03 e0 80 80", 1007, "overlong"),
    ("81 04 f0 80 80 80", 1007, "overlong"),
    ("81 04 f4 90 80 80", 1007, "beyond U+10FFFF"),
    ("01 01 f0 80 01 80", 1007, "overlong over two frames"),
    ("88 03 03 e8 ff", 1007, "close reason is not UTF-8"),
  ])
  func refuses(hex: String, code: UInt16, what: String) throws {
    let outcome = try Receiver.receive([bytes(hex)])
    #expect(outcome.violation == CloseCode(rawValue: code), "\(what)")
  }

  @Test func aServerRefusesUnmaskedFrames() throws {
    #expect(try Receiver.receive([bytes("81 00")], role: .server) == Outcome(violation: .protocolError))
  }

  @Test func onlyCertainCloseCodesMayArrive() throws {
    let allowed = Set((1000...1003).map(UInt16.init) + (1007...1014).map(UInt16.init) + (3000...4999).map(UInt16.init))
    for code in stride(from: 0, through: 65535, by: 1).map(UInt16.init) {
      var frame = bytes("88 02")
      frame += [UInt8(code >> 8), UInt8(truncatingIfNeeded: code)]
      let expected =
        allowed.contains(code)
        ? Outcome(events: [.close(CloseCode(rawValue: code), reason: "")]) : Outcome(violation: .protocolError)
      guard code < 6000 || code % 997 == 0 || code == 65535 else { continue }
      #expect(try Receiver.receive([frame]) == expected, "\(code)")
    }
  }

  @Test func messagesAreLimitedInBytes() throws {
    let limits = WebSocketLimits(maxMessageBytes: 125)
    let fits = bytes("82 7d") + [UInt8](repeating: 0, count: 125)
    #expect(try Receiver.receive([fits], limits: limits).violation == nil)
    #expect(try Receiver.receive([bytes("82 7e 00 7e")], limits: limits) == Outcome(violation: .tooBig))
    #expect(
      try Receiver.receive([bytes("82 7f 7f ff ff ff ff ff ff ff")], limits: limits) == Outcome(violation: .tooBig))
    let half = [UInt8](repeating: 0, count: 63)
    #expect(
      try Receiver.receive([bytes("02 3f") + half, bytes("00 3f") + half], limits: limits)
        == Outcome(violation: .tooBig))
  }

  @Test func messagesAreLimitedInFragments() throws {
    let limits = WebSocketLimits(maxFragments: 3)
    #expect(try Receiver.receive([bytes("01 00 00 00 80 00")], limits: limits).violation == nil)
    #expect(try Receiver.receive([bytes("01 00 00 00 00 00 00 00")], limits: limits).violation == .policyViolation)
  }

  /// However the bytes are cut, the same comes out; and what the encoder wrote is what is read.
  @Test func splitsChangeNothing() throws {
    for seed in 0..<200 { try splitsChangeNothing(seed: seed) }
  }

  private func splitsChangeNothing(seed: Int) throws {
    var random = Dice(seed: UInt64(seed))
    let role: WebSocketRole = Bool.random(using: &random) ? .client : .server
    var encoder = FrameEncoder(role: role == .client ? .server : .client, random: Dice(seed: UInt64(seed) + 1))
    var wire = ByteBuffer()
    var expected: [WebSocketEvent] = []
    for _ in 0..<Int.random(in: 1...12, using: &random) {
      expected += Self.message(into: &wire, &encoder, &random)
    }
    let all = Array(buffer: wire)
    #expect(try Receiver.receive([all], role: role) == Outcome(events: expected), "seed \(seed)")
    #expect(try Receiver.receive(Self.split(all, &random), role: role) == Outcome(events: expected), "seed \(seed)")
    #expect(try Receiver.receive(all.map { [$0] }, role: role) == Outcome(events: expected), "seed \(seed)")
  }

  /// Random bytes, and valid ones with a few changed: whatever comes out, it is the same for every split.
  @Test func survivesNoise() throws {
    for seed in 0..<500 { try survivesNoise(seed: seed) }
  }

  private func survivesNoise(seed: Int) throws {
    var random = Dice(seed: UInt64(seed) &* 7919)
    var encoder = FrameEncoder(role: .server, random: Dice(seed: 1))
    var wire = ByteBuffer()
    for _ in 0..<4 { _ = Self.message(into: &wire, &encoder, &random) }
    var noise = Array(buffer: wire)
    for _ in 0..<Int.random(in: 1...6, using: &random) {
      noise[Int.random(in: 0..<noise.count, using: &random)] = UInt8.random(in: .min ... .max, using: &random)
    }
    let whole = try Receiver.receive([noise])
    #expect(try Receiver.receive(Self.split(noise, &random)) == whole, "seed \(seed)")
  }

  private static func message(
    into wire: inout ByteBuffer, _ encoder: inout FrameEncoder<Dice>, _ random: inout Dice
  ) -> [WebSocketEvent] {
    let alphabet: [Character] = ["a", "é", "€", "😀", "\n"]
    let string = String(
      (0..<Int.random(in: 0...90, using: &random)).compactMap { _ in alphabet.randomElement(using: &random) })
    let payload = text(string)
    var events: [WebSocketEvent] = []
    switch Int.random(in: 0..<4, using: &random) {
    case 0:
      encoder.write(.pong, text("p"), into: &wire)
      events.append(.pong(text("p")))
    case 1:
      encoder.write(.binary, payload, into: &wire)
      events.append(.binary(payload))
    default:
      var rest = payload
      var opcode = Opcode.text
      while rest.readableBytes > 0, Bool.random(using: &random) {
        let piece = rest.readSlice(length: Int.random(in: 0...rest.readableBytes, using: &random)) ?? ByteBuffer()
        encoder.write(opcode, piece, final: false, into: &wire)
        opcode = .continuation
        if Int.random(in: 0..<4, using: &random) == 0 {
          encoder.write(.ping, text("!"), into: &wire)
          events.append(.ping(text("!")))
        }
      }
      encoder.write(opcode, rest, into: &wire)
      events.append(.text(payload))
    }
    return events
  }

  private static func split(_ all: [UInt8], _ random: inout Dice) -> [[UInt8]] {
    var rest = all[...]
    var pieces: [[UInt8]] = []
    while !rest.isEmpty {
      let piece = rest.prefix(Int.random(in: 1...40, using: &random))
      pieces.append(Array(piece))
      rest = rest.dropFirst(piece.count)
    }
    return pieces
  }
}
