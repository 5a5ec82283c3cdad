import BatonRedis

extension RawEntry {
  /// Names and values in turn. Without `_after`, the proof that the first entry of a stream has before Redis 7.
  var texts: [String] {
    fields.map { (String(buffer: $0.name), String(buffer: $0.value)) }.filter { $0.0 != "_after" }.flatMap {
      [$0.0, $0.1]
    }
  }
}
