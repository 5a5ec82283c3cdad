extension String {
  /// Nil for what is not UTF-8. `String(validating:as:)`, also where that is newer than the system.
  package init?(utf8 bytes: some Collection<UInt8>) {
    if #available(macOS 15, iOS 18, *) {
      self.init(validating: bytes, as: UTF8.self)
    } else {
      // What is mended is another text.
      self.init(decoding: bytes, as: UTF8.self)
      guard utf8.elementsEqual(bytes) else { return nil }
    }
  }
}
