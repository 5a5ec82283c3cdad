import NIOCore
import Testing

@testable import BatonWebSocket

@Suite struct FrameEncoderTests {
  /// RFC 6455 section 5.7.
  @Test func writesTheExamplesOfTheSpecification() {
    var buffer = ByteBuffer()
    buffer.writeWebSocketFrame(.text, payload: text("Hello"))
    #expect(Array(buffer: buffer) == bytes("81 05 48 65 6c 6c 6f"))

    buffer.clear()
    buffer.writeWebSocketFrame(.text, payload: text("Hello"), mask: 0x37fa_213d)
    #expect(Array(buffer: buffer) == bytes("81 85 37 fa 21 3d 7f 9f 4d 51 58"))

    buffer.clear()
    buffer.writeWebSocketFrame(.text, payload: text("Hel"), final: false)
    buffer.writeWebSocketFrame(.continuation, payload: text("lo"))
    #expect(Array(buffer: buffer) == bytes("01 03 48 65 6c 80 02 6c 6f"))

    buffer.clear()
    buffer.writeWebSocketFrame(.ping, payload: text("Hello"))
    buffer.writeWebSocketFrame(.pong, payload: text("Hello"), mask: 0x37fa_213d)
    #expect(Array(buffer: buffer) == bytes("89 05 48 65 6c 6c 6f 8a 85 37 fa 21 3d 7f 9f 4d 51 58"))
  }

  @Test(arguments: [
    (0, "81 00"), (1, "81 01"), (125, "81 7d"), (126, "81 7e 00 7e"), (256, "81 7e 01 00"), (65535, "81 7e ff ff"),
    (65536, "81 7f 00 00 00 00 00 01 00 00"),
  ])
  func choosesTheShortestLength(count: Int, header: String) {
    let payload = ByteBuffer(repeating: UInt8(ascii: "x"), count: count)
    let expected = bytes(header) + Array(buffer: payload)

    var whole = ByteBuffer(string: "before")
    whole.moveReaderIndex(forwardBy: 6)
    whole.writeWebSocketFrame(.text, payload: payload)
    #expect(Array(buffer: whole) == expected)

    let length = WebSocketTextHeader.length(for: count)
    let written = [UInt8](unsafeUninitializedCapacity: length) { memory, initialized in
      WebSocketTextHeader.write(for: count, to: UnsafeMutableRawBufferPointer(memory))
      initialized = length
    }
    #expect(written == bytes(header))

    var inPlace = ByteBuffer(string: "before")
    inPlace.moveReaderIndex(forwardBy: 3)
    inPlace.writeWebSocketText { $0.writeImmutableBuffer(payload) }
    inPlace.writeWebSocketText { $0.writeString("next") }
    #expect(Array(buffer: inPlace) == Array("ore".utf8) + expected + bytes("81 04") + Array("next".utf8))
  }

  @Test func writesNothingWhenTheBodyThrows() {
    struct Broken: Error {}
    var buffer = text("kept")
    #expect(throws: Broken.self) {
      try buffer.writeWebSocketText {
        $0.writeString("half")
        throw Broken()
      }
    }
    #expect(buffer == text("kept"))
  }

  @Test func writesCloseFrames() {
    var buffer = ByteBuffer()
    buffer.writeWebSocketClose(nil)
    buffer.writeWebSocketClose(.normal)
    buffer.writeWebSocketClose(4401, reason: "no")
    #expect(Array(buffer: buffer) == bytes("88 00  88 02 03 e8  88 04 11 31 6e 6f"))
  }

  /// 122 bytes and a character of 4: cut before it, since a control frame holds 125 bytes.
  @Test func cutsALongReasonBetweenCharacters() {
    var buffer = ByteBuffer()
    buffer.writeWebSocketClose(.normal, reason: String(repeating: "r", count: 122) + "😀")
    #expect(Array(buffer: buffer) == bytes("88 7c 03 e8") + Array(repeating: UInt8(ascii: "r"), count: 122))

    buffer.clear()
    buffer.writeWebSocketClose(.normal, reason: String(repeating: "é", count: 100))
    #expect(buffer.readableBytes == 2 + 2 + 122)
  }

  @Test func aClientMasksAndAServerDoesNot() {
    var client = FrameEncoder(role: .client, random: Constant(value: 0x37fa_213d_37fa_213d))
    var server = FrameEncoder(role: .server, random: Constant(value: 0x37fa_213d_37fa_213d))
    var buffer = ByteBuffer()
    client.write(.binary, text("Hello"), into: &buffer)
    server.write(.binary, text("Hello"), into: &buffer)
    client.writeClose(nil, into: &buffer)
    #expect(
      Array(buffer: buffer)
        == bytes("82 85 37 fa 21 3d 7f 9f 4d 51 58  82 05 48 65 6c 6c 6f  88 80 37 fa 21 3d"))
  }
}

extension Array where Element == UInt8 {
  init(buffer: ByteBuffer) { self = Array(buffer.readableBytesView) }
}
