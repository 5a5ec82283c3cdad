import Foundation
import NIOCore

@testable import BatonProtocol
@testable import BatonSession

/// Encodes a delivery as a gateway does, reads the frames back with another JSON parser, and takes joined ones apart.
enum FrameJudge {
  static func complaint(_ delivery: Delivery, counting frames: inout Int) -> String? {
    var rest = delivery.entries
    var texts: [ByteBuffer] = []
    EntryFrames.encode(delivery.entries, joined: delivery.joined) { json, _ in texts.append(json) }
    for text in texts {
      frames += 1
      guard let frame = try? JSONSerialization.jsonObject(with: Data(text.readableBytesView)) as? [String: Any] else {
        return "no JSON object: \(String(buffer: text))"
      }
      let place = (frame["type"] as? String == "skipped" ? frame["offset"] : frame["id"]) as? String
      guard let end = rest.firstIndex(where: { $0.offset.description == place }) else {
        return "unknown: \(String(buffer: text))"
      }
      let part = Array(rest[...end])
      rest = rest[(end + 1)...]
      if part.count > 1, !delivery.joined { return "joined in spite of all: \(String(buffer: text))" }
      if let words = mismatch(frame, part) {
        return "\(words): \(String(buffer: text)) for \(part.map(\.offset.description))"
      }
    }
    return rest.isEmpty ? nil : "no frame for \(rest.map(\.offset.description))"
  }

  /// Nil where the frame says what these entries say.
  private static func mismatch(_ frame: [String: Any], _ part: [Entry]) -> String? {
    guard let last = part.last else { return "nothing" }
    if last.payload == .tooBig {
      return part.count == 1 && frame["bytes"] as? Int == last.bytes && frame["data"] == nil ? nil : "not skipped alone"
    }
    var text: String?
    var deltas: UInt64 = 0
    for (index, entry) in part.enumerated() {
      deltas += entry.joined
      if case .text(let bytes) = entry.payload { text = (text ?? "") + String(buffer: bytes) }
      if part.count == 1 { continue }
      guard case .text = entry.payload, entry.event == "token", entry.fields.isEmpty, entry.response == last.response,
        (entry.n == nil) == (last.n == nil)
      else { return "joined what must not be joined" }
      if index > 0, let n = entry.n, part[index - 1].n != n - entry.joined { return "joined over a gap" }
    }
    if frame["event"] as? String != last.event { return "event" }
    if frame["response"] as? String != last.response { return "response" }
    if (frame["n"] as? NSNumber)?.uint64Value != last.n { return "n" }
    if (frame["joined"] as? NSNumber)?.uint64Value ?? 1 != deltas { return "joined" }
    if frame["data"] as? String != text { return "data" }
    // A name that is there more than once has an array.
    let fields = (frame["fields"] as? [String: Any] ?? [:]).mapValues { $0 as? [String] ?? [$0 as? String ?? ""] }
    let stored = Dictionary(grouping: last.fields) { String(buffer: $0.name) }
    return fields == stored.mapValues { $0.map { String(buffer: $0.value) } } ? nil : "fields"
  }
}
