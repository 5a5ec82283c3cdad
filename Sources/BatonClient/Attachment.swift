import BatonProtocol
import Foundation
import NIOCore
import NIOPosix

/// A session as one device sees it, over as many connections and gateways as it takes.
///
///     let attachment = try Attachment(to: "chat-42", at: ["https://gateway.example"])
///     var transcript = Transcript()
///     for try await event in attachment {
///       transcript.apply(event)
///       show(transcript.responses)
///     }
///
/// It connects at once, and goes on at the very next entry after each lost connection. The sequence ends when there is
/// nothing more to come (`untilEnd`, `start: .response`), after ``close()``, and with a ``Rejection`` when no retry can help. It has one
/// reader; when that is slow, the socket is not read. An attachment that nobody holds any more is closed.
public final class Attachment: AsyncSequence, Sendable {
  public typealias Element = Event

  let driver: Driver
  let queue: EventQueue

  /// - Parameters:
  ///   - session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`.
  ///   - urls: gateways, `http`, `https`, `ws` or `wss`; each attempt goes to the next. Certificates are checked.
  /// - Throws: `InvalidAttachment`, which says what to mend.
  public init(to session: String, at urls: [String], _ options: AttachOptions = AttachOptions()) throws {
    guard SessionName(session) != nil else {
      throw InvalidAttachment("a session's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -, not \"\(session)\"")
    }
    guard !urls.isEmpty else { throw InvalidAttachment("at least one URL of a gateway is needed") }
    let endpoints = try urls.map { url in
      guard let endpoint = Endpoint(url) else {
        throw InvalidAttachment("a gateway's URL looks like https://host:port, not \"\(url)\"")
      }
      return endpoint
    }
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let driverBox = WeakDriver()
    queue = EventQueue(maxBytes: options.maxBufferedBytes) { driverBox.wake() }
    driver = try Driver(session: session, endpoints: endpoints, options: options, queue: queue, loop: loop)
    driverBox.driver = driver
    driver.enqueue { $0.handle(.start) }
  }

  deinit { close() }

  /// Ends the attachment; the sequence ends after what has already arrived.
  public func close() { driver.enqueue { $0.handle(.close) } }

  /// Gives up the connection until ``resume()``; the place is kept. For an app that goes to the background.
  public func suspend() { driver.enqueue { $0.handle(.suspend) } }

  public func resume() { driver.enqueue { $0.handle(.resume) } }

  /// Replaces the token, for this connection and the next.
  public func use(token: String) { driver.enqueue { $0.use(token: token) } }

  /// Sends what a person said: it is appended to the session, and to the inbox of its producers.
  ///
  /// - Parameter key: 1 to 64 characters; the same key is never appended twice.
  /// - Returns: the id in the inbox.
  /// - Throws: `SubmissionError`.
  public func input(_ data: String, key: String = UUID().uuidString) async throws -> String {
    try await driver.submit(Submission(key: key, kind: .input(data: data)))
  }

  /// Asks the producer of a response to stop it.
  ///
  /// - Returns: the id in the inbox.
  /// - Throws: `SubmissionError`.
  public func cancel(response: String, key: String = UUID().uuidString) async throws -> String {
    try await driver.submit(Submission(key: key, kind: .cancel(response: response)))
  }

  public func makeAsyncIterator() -> Iterator { Iterator(attachment: self) }

  public struct Iterator: AsyncIteratorProtocol {
    fileprivate let attachment: Attachment

    /// - Throws: ``Rejection``.
    public mutating func next() async throws -> Event? { try await attachment.queue.next() }
  }
}

/// What an attachment tells.
public enum Event: Sendable {
  /// A frame that concerns the app: an entry, `attached`, `live`, `behind`, `reset`, `skipped`, `stalled`, `draining`,
  /// `expiring` or `error`.
  case frame(Frame)
  /// The connection's state has changed; the detail says why, where there is something to say.
  case state(ConnectionState, detail: String?)
}

/// How to attach (PROTOCOL 3).
public struct AttachOptions: Sendable {
  public enum Start: Sendable, Equatable {
    /// After this entry; `.zero` is all that is retained.
    case after(Offset)
    /// Only what comes from now on.
    case end
    /// The newest N entries, 1 to 10,000.
    case newest(Int)
    /// From the start of one response, nothing but that response, until its end.
    case response(String)
  }

  public var start = Start.after(.zero)
  /// `auto`, `off`, or milliseconds, 1 to 1000: which deltas may be joined.
  public var rollup: String?
  /// End once everything is there and no response is open.
  public var untilEnd = false
  /// A name for this device.
  public var device: String?
  /// A JWT.
  public var token: String?
  /// Asked for a new token when the old one expires or is refused; without it that is a ``Rejection``.
  public var renewToken: (@Sendable () async throws -> String)?
  /// Bytes of frames that wait for the app before the socket is no longer read.
  public var maxBufferedBytes = 1 << 20
  /// The largest frame that is accepted, in bytes, 125 to 2³²−1; a larger one is a ``Rejection``.
  public var maxFrameBytes = 16 << 20
  /// A PEM file with the certificates to trust, in place of the system's.
  public var trustedCertificates: String?

  public init() {}
}

/// The attachment can't be made as it was asked for; the text says what to mend.
public struct InvalidAttachment: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String

  init(_ description: String) { self.description = description }
}

/// A gateway said no, and trying again would not help.
public struct Rejection: Error, Equatable, Sendable, CustomStringConvertible {
  public enum Reason: Equatable, Sendable {
    /// HTTP's status in place of the upgrade.
    case status(Int)
    /// The WebSocket's close code.
    case closeCode(Int)
  }

  public let reason: Reason
  /// What the gateway said.
  public let detail: String?

  public var description: String {
    let what =
      switch reason {
      case .status(let status): "refused with HTTP status \(status)"
      case .closeCode(let code): "closed with code \(code)"
      }
    return detail.map { "\(what): \($0)" } ?? what
  }
}
