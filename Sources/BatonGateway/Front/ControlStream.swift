import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Foundation
import HummingbirdCore
import NIOCore

/// The controls of one response as server-sent events, for a producer over HTTP (PROTOCOL 8): cancels of the response, also
/// those from before, and inputs from the stream's beginning on. Ends with the response.
struct ControlStream: Sendable {
  /// How often Redis is asked; several times within the 250 ms in which a producer hears.
  private static let glance = Duration.milliseconds(100)
  /// How often, while it does not answer or refuses.
  private static let patience = Duration.seconds(1)
  /// A comment shows that both ends are there.
  private static let beat = Duration.seconds(10)

  let response: String
  let session: SessionName
  /// Nil: cancels from the inbox's beginning on, and inputs from now on.
  let after: EntryID?
  /// Whose token's end is the stream's.
  let identity: Identity?
  let store: any SessionOperations
  let state: NodeState

  struct Start {
    /// Inputs up to here are no news.
    let known: EntryID
  }

  /// - Throws: `Problem` where the inbox can't be read.
  func begin() async throws -> Start {
    var place = after ?? .zero
    guard after == nil else { return Start(known: place) }
    while true {
      let look = try await store.look(at: response, in: session, after: place)
      if let last = look.messages.last { place = EntryID(last.id.milliseconds, last.id.sequence) }
      if look.messages.count < InboxLook.count { return Start(known: place) }
    }
  }

  /// The connection is cut, without the body's end, where the response has none yet.
  func run(_ start: Start, _ writer: inout any ResponseBodyWriter) async throws {
    var place = after ?? .zero
    var beaten = ContinuousClock.now
    try await writer.write(ByteBuffer(string: ": controls of \(response)\n\n"))
    while !Task.isCancelled, !state.endsUploads, Date().timeIntervalSince1970 < identity?.expires ?? .infinity,
      identity?.objection(to: .publish, session) == nil
    {
      var (isMore, pause) = (false, Self.patience)
      // While the store is away the producer waits.
      if let look = try? await store.look(at: response, in: session, after: place) {
        pause = Self.glance
        var events = ByteBuffer()
        for message in look.messages {
          place = EntryID(message.id.milliseconds, message.id.sequence)
          write(message, place, isNews: place > start.known, into: &events)
        }
        isMore = look.messages.count == InboxLook.count
        if let record = look.record, record.state != .open, !isMore {
          write(record.state.rawValue, [], place, into: &events)
          try await writer.write(events)
          try await writer.finish(nil)
          return
        }
        if events.readableBytes > 0 { try await writer.write(events) }
      }
      if .now - beaten >= Self.beat {
        beaten = .now
        try await writer.write(ByteBuffer(string: ":\n\n"))
      }
      if !isMore { try await Task.sleep(for: pause) }
    }
    throw ChannelError.ioOnClosedChannel
  }

  private func write(_ message: RawEntry, _ id: EntryID, isNews: Bool, into events: inout ByteBuffer) {
    let fields = message.texts
    switch fields["event"] {
    case "cancel"? where fields["response"] == response: break
    case "input"? where isNews && (fields["response"] ?? response) == response: break
    default: return
    }
    let others = ["data", "device", "subject", "key"].compactMap { name in fields[name].map { (name, $0) } }
    write(fields["event"] ?? "", others, id, into: &events)
  }

  private func write(_ event: String, _ others: [(String, String)], _ id: EntryID, into events: inout ByteBuffer) {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("id", id.description)
      json.member("event", event)
      json.member("response", response)
      for (name, value) in others { json.member(name, value) }
    }
    events.writeString("id: \(id)\ndata: ")
    events.writeImmutableBuffer(json.buffer)
    events.writeString("\n\n")
  }
}

extension RawEntry {
  /// Its fields; of one that comes twice the first.
  var texts: [String: String] {
    Dictionary(fields.map { (String(buffer: $0.name), String(buffer: $0.value)) }) { first, _ in first }
  }
}
