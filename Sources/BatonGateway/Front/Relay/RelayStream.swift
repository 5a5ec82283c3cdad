import BatonProtocol
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore

/// Entries of a session as a stream of another API.
protocol RelayStream: Sendable {
  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer)
  /// What comes now belongs to the stream no more.
  var isOver: Bool { get }
}

extension RelayStream {
  var isOver: Bool { false }
}

extension Routes {
  /// Serves a stream from the session. It comes to its end only where the last chunk follows; what else ends it is a cut.
  /// - Parameters:
  ///   - who: whose token's end is the stream's.
  ///   - gone: the caller has gone before the end.
  ///   - ending: writes what is last.
  func stream<Form: RelayStream>(
    _ form: Form, of session: SessionName, _ asked: ResponseTap.Request, _ call: Call, for who: Identity?,
    gone: (@Sendable () async -> Void)? = nil,
    ending: @escaping @Sendable (inout Form, inout ByteBuffer) async throws -> Void
  ) -> Response {
    var answer = Response(
      status: .ok,
      body: ResponseBody { [self] writer in
        var form = form
        let isExpired = {
          who.map { Date().timeIntervalSince1970 >= $0.expires || $0.isRevoked || !$0.mayUse(session) } ?? false
        }
        do {
          let tap = try await call.tap(asked, in: session, front)
          reading: for try await item in tap.items {
            if isExpired() { throw ChannelError.ioOnClosedChannel }
            switch item {
            // What was sent is not what the stream holds.
            case .reset: throw ChannelError.ioOnClosedChannel
            case .live: continue
            case .beat: try await writer.write(ByteBuffer(string: ":\n\n"))
            case .entries(let entries):
              var bytes = ByteBuffer()
              for entry in entries { form.write(entry, into: &bytes) }
              if bytes.readableBytes > 0 { try await writer.write(bytes) }
              tap.taken(ResponseTap.bytes(entries))
              if form.isOver { break reading }
            }
          }
          var last = ByteBuffer()
          try await ending(&form, &last)
          if last.readableBytes > 0 { try await writer.write(last) }
        } catch {
          if let gone, !isExpired() { await gone() }
          throw error
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
