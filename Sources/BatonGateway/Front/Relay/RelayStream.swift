import BatonProtocol
import HTTPTypes
import HummingbirdCore
import NIOConcurrencyHelpers
import NIOCore

/// Entries of a session as a stream of another API.
protocol RelayStream: Sendable {
  /// What comes before all entries.
  mutating func begin(into bytes: inout ByteBuffer)
  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer)
  /// What comes now belongs to the stream no more.
  var isOver: Bool { get }
  /// Bytes that it keeps of what is not whole yet.
  var held: Int { get }
  /// There is no memory for what it would have to keep: says so, where the stream has words for it.
  mutating func breakOff(into bytes: inout ByteBuffer)
}

extension RelayStream {
  var isOver: Bool { false }
  mutating func begin(into bytes: inout ByteBuffer) {}
  mutating func breakOff(into bytes: inout ByteBuffer) {}
}

extension Routes {
  /// Serves a stream from the session. It comes to its end only where the last chunk follows; what else ends it is a cut.
  /// - Parameters:
  ///   - who: whose token's end is the stream's.
  ///   - place: what it takes up, until it ends.
  ///   - ending: writes what is last.
  func stream<Form: RelayStream>(
    _ form: Form, of session: SessionName, _ asked: ResponseTap.Request, _ call: Call, for who: Identity?,
    in place: DeviceRegistry.Place,
    ending: @escaping @Sendable (inout Form, inout ByteBuffer) async throws -> Void
  ) async throws -> Response {
    // Its body is done with.
    try await call.gathered.hold(0)
    let gathered = Gathered(gathering)
    var answer = Response(
      status: .ok,
      body: ResponseBody { [self] writer in
        let stand = NIOLockedValueBox((form: form, counted: 0))
        let count = { @Sendable in
          let held = stand.withLockedValue { $0.form.held }
          try await gathered.hold(held)
          stand.withLockedValue { $0.counted = held }
        }
        let isExpired = { @Sendable in who?.hasLost(session) == true }
        defer { place.leave() }
        do {
          try await run(on: call.channel.eventLoop) {
            let first = stand.withLockedValue { stand in
              var first = ByteBuffer()
              stand.form.begin(into: &first)
              return first
            }
            if first.readableBytes > 0 { try await writer.write(first) }
            let tap = try await call.tap(asked, in: session, place, front)
            gathered.onGivingWay { tap.giveUp(Problem.shortOfMemory) }
            // What comes while the client reads goes out as it comes, without a turn of this task.
            let chunks = try await ChunkWriter.make(on: call.channel)
            tap.pass { [channel = call.channel] entries in
              guard channel.isWritable, !isExpired() else { return .none }
              return stand.withLockedValue { stand in
                guard stand.form.held == stand.counted else { return .none }
                chunks.write { for entry in entries where !stand.form.isOver { stand.form.write(entry, into: &$0) } }
                return stand.form.isOver || stand.form.held != stand.counted ? .lookAgain : .all
              }
            }
            reading: for try await item in tap.items {
              if isExpired() { throw ChannelError.ioOnClosedChannel }
              switch item {
              // What was sent is not what the stream holds.
              case .reset: throw ChannelError.ioOnClosedChannel
              case .live: continue
              case .look: try await count()
              case .beat: try await writer.write(ByteBuffer(string: ":\n\n"))
              case .entries(let entries):
                let bytes = stand.withLockedValue { stand in
                  var bytes = ByteBuffer()
                  for entry in entries { stand.form.write(entry, into: &bytes) }
                  return bytes
                }
                if bytes.readableBytes > 0 { try await writer.write(bytes) }
                try await count()
                tap.taken(ResponseTap.bytes(entries))
              }
              if stand.withLockedValue({ $0.form.isOver }) { break reading }
            }
            var (form, last) = (stand.withLockedValue { $0.form }, ByteBuffer())
            try await ending(&form, &last)
            if last.readableBytes > 0 { try await writer.write(last) }
          }
        } catch let problem as Problem where problem == .shortOfMemory {
          refusals.note(problem, uri: call.request.head.path ?? "/", origin: nil, from: call.address)
          var (form, last) = (stand.withLockedValue { $0.form }, ByteBuffer())
          form.breakOff(into: &last)
          if form.isOver { try await ending(&form, &last) }
          if last.readableBytes > 0 { try await writer.write(last) }
          if !form.isOver { throw problem }
        }
        try await writer.finish(nil)
      })
    answer.headers[.contentType] = "text/event-stream; charset=utf-8"
    answer.headers[.cacheControl] = "no-store, no-transform"
    if let name = HTTPField.Name("X-Accel-Buffering") { answer.headers[name] = "no" }
    answer.allow(call.request.headers[.origin])
    return answer
  }
}
