import ArgumentParser
import BatonProducer
import BatonProtocol
import BatonSession
import Foundation
import NIOCore
import NIOPosix

struct Publish: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Append an answer to a session, from standard input or from a language model.",
    discussion: """
      Without --openai each line of standard input is one delta, its newline included; its end is the answer's end.
      With --openai the model's answer is appended as it comes; a key for it is taken from OPENAI_API_KEY.

      With --record every delta, before it is appended, and every acknowledgement is also appended to a file, for baton check;
      the texts are in it. If the file can't be written at the start, nothing else is done; if it can't be written any more,
      that is said once, the recording ends there, and the command goes on.
      """)

  @Argument(help: "The session's name.")
  var session: String

  @Option(
    help: """
      Where Redis is: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://. The default is \
      redis://127.0.0.1:6379/0.
      """)
  var redis: String?

  @Option(help: "Append through this gateway instead, http://HOST:PORT.")
  var url: String?

  @Option(help: "A token for the gateway with the scope publish.")
  var token: String?

  @Option(help: "How the keys in Redis begin.")
  var keyPrefix = "baton:"

  @Option(help: "replicas=N: so many replicas must have what is appended before it counts as written.")
  var ack: Acknowledgement?

  /// Whose word is enough.
  struct Acknowledgement: ExpressibleByArgument {
    let replicas: Int

    init?(argument: String) {
      guard argument.hasPrefix("replicas="), let number = Int(argument.dropFirst("replicas=".count)),
        (0...100).contains(number)
      else { return nil }
      replicas = number
    }
  }

  @Option(help: "The response's name; a fresh one unless told. One that is open is taken over.")
  var response: String?

  @Option(
    help: "An OpenAI-compatible endpoint, http://HOST:PORT (/v1/chat/completions is added as far as it is missing).")
  var openai: String?

  @Option(help: "What to ask the model.")
  var prompt: String?

  @Option(help: "Which model to ask.")
  var model = "default"

  @Option(help: "Append what is meant and what is acknowledged to this file, texts included, for baton check.")
  var record: String?

  func validate() throws {
    guard SessionName(session) != nil else {
      throw ValidationError("The session '\(session)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if let response, !Shape.name(response.utf8, upTo: 128) {
      throw ValidationError("The response '\(response)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if ack != nil, url != nil { throw ValidationError("--ack needs --redis: a gateway does not wait for replicas.") }
    if redis != nil, url != nil { throw ValidationError("Give --redis or --url, not both.") }
    if openai != nil, prompt == nil { throw ValidationError("--openai needs a --prompt.") }
    if openai == nil, prompt != nil { throw ValidationError("--prompt needs --openai.") }
    for case let address? in [url, openai] where Self.isNoHTTP(address) {
      throw ValidationError("'\(address)' is not an address like http://127.0.0.1:8080.")
    }
  }

  private static func isNoHTTP(_ address: String) -> Bool {
    guard let url = URL(string: address), let host = url.host, !host.isEmpty else { return true }
    return url.scheme != "http" && url.scheme != "https"
  }

  func run() async throws {
    guard let name = SessionName(session) else { return }
    let response = response ?? "r-" + String(UInt64.random(in: 0 ... .max), radix: 36)
    do {
      let recorder = try record.map { (path) throws(CannotRecord) in
        try PublishRecorder(path, session: session, response: response)
      }
      var target: any PublishTarget =
        if let url {
          try await GatewayTarget(url: url, session: name, response: response, token: token)
        } else {
          try await RedisTarget(
            url: redis ?? "redis://127.0.0.1:6379/0",
            session: name, prefix: keyPrefix, response: response, replicas: ack?.replicas ?? 0)
        }
      if let recorder { target = await RecordedTarget(target, recorder) }
      try await publish(to: target)
    } catch let cannot as CannotRecord {
      say("publish", "\(cannot)")
      throw ExitCode(ExitStatus.output.rawValue)
    } catch let failure as PublishFailure {
      say("publish", "\(failure)")
      throw ExitCode(failure.status.rawValue)
    }
  }

  /// Until the source is dry, a device cancels, or a signal comes.
  private func publish(to target: any PublishTarget) async throws {
    let (outcomes, continuation) = AsyncStream.makeStream(of: Outcome.self)
    let source = Task { [openai, prompt, model] in
      do {
        if let openai, let prompt {
          try await ModelSource(endpoint: openai, model: model, prompt: prompt).publish(to: target)
        } else {
          try await StandardInput().publish(to: target)
        }
        continuation.yield(.done)
      } catch {
        continuation.yield(.failed(error))
      }
    }
    let cancels = Task {
      for await message in target.messages where message.kind == .cancel { continuation.yield(.stopped("cancel")) }
      guard !Task.isCancelled else { return }
      // The response is over: the source has ended it, or it failed while the source was silent.
      do {
        try await target.end(.end, nil)
      } catch {
        continuation.yield(.failed(error))
      }
    }
    let signals = [SIGINT, SIGTERM, SIGHUP].map { number in
      signal(number, SIG_IGN)
      let signal = DispatchSource.makeSignalSource(signal: number)
      signal.setEventHandler { continuation.yield(.stopped("interrupted")) }
      signal.resume()
      return signal
    }
    defer {
      cancels.cancel()
      for signal in signals { signal.cancel() }
    }
    switch await outcomes.first(where: { _ in true }) {
    case .stopped(let reason):
      // The end first, so that nothing which the source still has comes behind it.
      async let ended: Void = target.end(.cancelled, #"{"reason":"\#(reason)"}"#)
      source.cancel()
      try await ended
    case .failed(let error): throw error
    case .done, nil: break
    }
  }

  private enum Outcome: Sendable {
    case done
    case failed(any Error)
    case stopped(String)
  }
}

/// Where an answer is appended to; opened when it is made.
protocol PublishTarget: Sendable {
  var messages: AsyncStream<DeviceMessage> { get }
  /// Told of acknowledgements from now on; the number that the deltas go on after, if none was appended yet.
  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) async -> UInt64
  /// Waits while too much is on its way.
  func append(_ delta: ByteBuffer) async throws(PublishFailure)
  /// Returns when all of it is there. The first end counts.
  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure)
}

/// Why an answer could not be appended, or not wholly.
struct PublishFailure: Error, CustomStringConvertible {
  let status: ExitStatus
  let description: String

  static func unavailable(_ what: String) -> PublishFailure { PublishFailure(status: .unavailable, description: what) }
  static func fault(_ what: String) -> PublishFailure { PublishFailure(status: .fault, description: what) }
  static func configuration(_ what: String) -> PublishFailure {
    PublishFailure(status: .configuration, description: what)
  }
}
