import NIOCore

extension ByteBuffer {
  /// Bytes of a delta that reaches every device: with its names it stays below the 256 KiB of `--max-entry-bytes`.
  package static let deltaLimit = 128 << 10

  /// The next piece of at most `limit` bytes; it ends with a character, unless there is none of at most 4 bytes.
  package mutating func readPiece(upTo limit: Int = Self.deltaLimit) -> ByteBuffer? {
    guard readableBytes > limit else { return readableBytes > 0 ? readSlice(length: readableBytes) : nil }
    let view = readableBytesView
    var length = limit
    while length > limit - 4, length > 1, view[view.startIndex + length] & 0xC0 == 0x80 { length -= 1 }
    return readSlice(length: view[view.startIndex + length] & 0xC0 == 0x80 ? limit : length)
  }

  /// All of it in pieces; one where it is small, or empty.
  package func pieces(upTo limit: Int = Self.deltaLimit) -> [ByteBuffer] {
    guard readableBytes > limit else { return [self] }
    var rest = self
    var pieces: [ByteBuffer] = []
    while let piece = rest.readPiece(upTo: limit) { pieces.append(piece) }
    return pieces
  }
}
