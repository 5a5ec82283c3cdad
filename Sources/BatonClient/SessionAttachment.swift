@_exported import BatonProtocol
import BatonWebSocket
import Foundation
import Logging
import NIOCore
import NIOPosix

/// A session as one device sees it, over as many connections and gateways as it takes.
///
///     let attachment = try SessionAttachment(to: "chat-42", at: ["https://gateway.example"])
///     var transcript = SessionTranscript()
///     for try await event in attachment {
///       transcript.apply(event)
///       show(transcript.responses)
///     }
///
/// It connects at once, and goes on at the very next entry after each lost connection. The sequence ends when there is
/// nothing more to come (``Options/untilEnd``, ``Options/Start/response(_:)``), after ``close()``, and with a ``Rejection``
/// when no retry can help. It has one reader; when that is slow, the socket is not read. An attachment that nobody holds any
/// more is closed.
public final class SessionAttachment: AsyncSequence, Sendable {
  public typealias Element = Event

  /// What an attachment tells.
  public enum Event: Sendable {
    /// A frame that concerns the app: an entry, `attached`, `live`, `behind`, `reset`, `skipped`, `stalled`, `draining`,
    /// `expiring` or `error`.
    case frame(Frame)
    /// The connection's state has changed; the detail says why, where there is something to say.
    case state(State, detail: String?)
  }

  /// Where an attachment stands.
  public enum State: String, Sendable {
    /// An attempt to reach a gateway is under way.
    case connecting
    /// Attached, and being caught up.
    case behind
    /// Attached, with everything that the stream holds.
    case live
    /// Attached to a gateway that has lost its store.
    case stalled
    /// Between two attempts to connect.
    case waiting
    /// Waiting for a new token, or before the next attempt with one.
    case unauthorized
    /// Without a connection, until ``SessionAttachment/resume()``.
    case suspended
    /// Over; nothing comes any more.
    case ended
  }

  let driver: Driver?
  let queue: EventQueue
  private let answer: (@Sendable (Submission) async throws -> String)?

  /// - Parameters:
  ///   - session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`.
  ///   - urls: gateways, `http`, `https`, `ws` or `wss`; each attempt goes to the next. Certificates are checked.
  ///   - options: where to begin, and how.
  ///   - eventLoopGroup: whose threads do the work; one of its loops is used.
  ///   - logger: told of lost connections (`debug`) and of refusals (`notice`), with the session's name and the offset;
  ///     never of text or tokens.
  /// - Throws: ``Invalid``, which says what to mend.
  public init(
    to session: String, at urls: [String], options: Options = Options(),
    eventLoopGroup: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
    logger: Logger = Logger(label: "baton.client") { _ in SwiftLogNoOpLogHandler() }
  ) throws {
    guard SessionName(session) != nil else {
      throw Invalid("a session's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -, not \"\(session)\"")
    }
    guard !urls.isEmpty else { throw Invalid("at least one URL of a gateway is needed") }
    let endpoints = try urls.map { url in
      guard let endpoint = Endpoint(url) else {
        throw Invalid("a gateway's URL looks like https://host:port, not \"\(url)\"")
      }
      return endpoint
    }
    let driverBox = WeakDriver()
    let queue = EventQueue(maxBytes: options.maxBufferedBytes) { driverBox.wake() }
    let driver = try Driver(
      session: session, endpoints: endpoints, options: options, queue: queue, loop: eventLoopGroup.next(),
      logger: logger)
    driverBox.driver = driver
    (self.queue, self.driver, answer) = (queue, driver, nil)
    driver.enqueue { $0.handle(.start) }
  }

  /// An attachment without a gateway, for tests and previews: it tells these events, and then ends.
  ///
  /// - Parameters:
  ///   - events: what is told, in order.
  ///   - rejection: what is thrown at the end; nil for an end without an error.
  ///   - answer: what becomes of inputs and cancels: given the text or the response's name, the id in the inbox or an error.
  public init(
    playing events: some Sequence<Event>, rejection: Rejection? = nil,
    answer: @escaping @Sendable (_ text: String) async throws -> String = { _ in "1-0" }
  ) {
    queue = EventQueue(maxBytes: .max) {}
    driver = nil
    self.answer = { submission in
      switch submission.kind {
      case .input(let data): try await answer(data)
      case .cancel(let response): try await answer(response)
      }
    }
    for event in events { queue.push(event, bytes: 0) }
    queue.finish(rejection.map { .failure($0) } ?? .success(()))
  }

  deinit { close() }

  /// Ends the attachment; the sequence ends after what has already arrived.
  public func close() { driver?.enqueue { $0.handle(.close) } }

  /// Gives up the connection until ``resume()``; the place is kept. For an app that goes to the background.
  public func suspend() { driver?.enqueue { $0.suspend() } }

  /// Connects again after ``suspend()``, at once and at the same place.
  public func resume() { driver?.enqueue { $0.resume() } }

  /// Replaces the token, for this connection and the next.
  /// - Throws: ``Invalid`` where it can't be sent as a header: a line break within, a character beyond ASCII.
  public func use(token: String) throws {
    let token = try Options.checked(token: token)
    driver?.enqueue { $0.use(token: token) }
  }

  /// Sends what a person said: it is appended to the session, and to the inbox of its producers.
  ///
  /// It may be called from within the loop that reads the events: the answer never waits for unread ones.
  /// - Parameters:
  ///   - data: up to 64 KiB of the whole frame as JSON.
  ///   - key: 1 to 64 characters; the same key is never appended twice.
  ///   - timeout: how long to wait for the answer, over lost connections.
  /// - Returns: the id in the inbox.
  /// - Throws: ``SubmissionError``; `CancellationError` at once when the task is cancelled. After a time-out or a
  ///   cancellation it may have been appended or not: repeat it with the same key to find out.
  public func input(
    _ data: String, key: String = UUID().uuidString, timeout: Duration = .seconds(60)
  ) async throws -> EntryID {
    try await submit(Submission(key: key, kind: .input(data: data)), timeout)
  }

  /// Asks the producer of a response to stop it, wherever it runs.
  ///
  /// - Parameters: as of ``input(_:key:timeout:)``.
  /// - Returns: the id in the inbox.
  /// - Throws: as ``input(_:key:timeout:)``.
  public func cancel(
    response: String, key: String = UUID().uuidString, timeout: Duration = .seconds(60)
  ) async throws -> EntryID {
    try await submit(Submission(key: key, kind: .cancel(response: response)), timeout)
  }

  private func submit(_ submission: Submission, _ timeout: Duration) async throws -> EntryID {
    let id =
      if let answer { try await answer(submission) } else { try await driver?.submit(submission, timeout: timeout) }
    guard let id = id.flatMap({ EntryID($0) }) else {
      throw SubmissionError(.badAnswer, "the gateway's answer has no id")
    }
    return id
  }

  public func makeAsyncIterator() -> Iterator { Iterator(attachment: self) }

  /// Reads the events; the attachment stays open as long as it is held.
  public struct Iterator: AsyncIteratorProtocol {
    fileprivate let attachment: SessionAttachment

    /// Nil at the end, and in a cancelled task.
    /// - Throws: ``Rejection``.
    public mutating func next() async throws -> Event? { try await attachment.queue.next() }
  }
}

extension SessionAttachment {
  /// The attachment can't be made as it was asked for; the text says what to mend.
  public struct Invalid: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
  }

  /// A gateway said no, and trying again would not help.
  public struct Rejection: Error, Equatable, Sendable, CustomStringConvertible {
    /// Why.
    public enum Reason: Equatable, Sendable {
      /// HTTP's status in place of the upgrade, said by the gateway itself.
      case status(Int)
      /// The WebSocket's close code (section 5 of the protocol).
      case closeCode(Int)
    }

    public let reason: Reason
    /// What the gateway said there is to mend.
    public let detail: String?

    public init(reason: Reason, detail: String? = nil) {
      self.reason = reason
      self.detail = detail
    }

    public var description: String {
      let what =
        switch reason {
        case .status(let status): "refused with HTTP status \(status)"
        case .closeCode(let code): "closed with code \(code)"
        }
      return detail.map { "\(what): \($0)" } ?? what
    }
  }

  /// Why an input or a cancel was not accepted.
  public struct SubmissionError: Error, Equatable, Sendable {
    /// The gateway's code of section 5, or one of this library.
    public struct Code: RawRepresentable, Hashable, Sendable {
      public let rawValue: String

      public init(rawValue: String) { self.rawValue = rawValue }

      /// The token's scope does not allow it.
      public static let forbidden = Code(rawValue: "forbidden")
      /// The key was used before, with another body.
      public static let keyConflict = Code(rawValue: "key_conflict")
      /// Too many inputs and cancels in a short time.
      public static let rateLimited = Code(rawValue: "rate_limited")
      /// The gateway can't make sense of it; the message says why.
      public static let badRequest = Code(rawValue: "bad_request")
      /// Redis is out of reach for the gateway.
      public static let storeUnavailable = Code(rawValue: "store_unavailable")
      /// The session's key holds another type.
      public static let wrongType = Code(rawValue: "wrong_type")
      /// 64 wait for their answer already.
      public static let tooMany = Code(rawValue: "too_many")
      /// The frame would exceed 64 KiB.
      public static let tooBig = Code(rawValue: "too_big")
      /// One with this key waits for its answer.
      public static let keyInUse = Code(rawValue: "key_in_use")
      /// The attachment ended before an answer came.
      public static let ended = Code(rawValue: "ended")
      /// No answer came in time.
      public static let timedOut = Code(rawValue: "timed_out")
      /// The answer was not one.
      public static let badAnswer = Code(rawValue: "bad_answer")
    }

    public let code: Code
    public let message: String?

    public init(_ code: Code, _ message: String? = nil) {
      self.code = code
      self.message = message
    }
  }
}
