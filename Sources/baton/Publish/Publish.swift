import ArgumentParser
import BatonProducer
import BatonProtocol
import BatonRelay
import BatonSession
import BatonUpstream
import Foundation
import NIOCore
import NIOPosix

struct Publish: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Append an answer to a session, from standard input or from a language model.",
    discussion: """
      Without --openai each line of standard input is one delta, its newline included; its end is the answer's end.
      With --openai the model's answer is appended as it comes; a key for it is taken from OPENAI_API_KEY, a proxy from
      HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, certificates to trust from SSL_CERT_FILE.

      A --response that is open is taken over. Standard input goes on where the former publisher was; a model answers anew, so
      that what there is of the response ends with error, and the answer is a response of its own that supersedes it.

      An interrupt, a termination or a hangup ends the answer as cancelled, and so does a cancel from a device; a second signal
      ends the process at once.

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

  @Option(help: "The response's name; a fresh one unless told.")
  var response: String?

  @Option(
    help: """
      An OpenAI-compatible endpoint, http://HOST:PORT. /chat/completions is added where it is missing, and /v1 where there \
      is no path.
      """)
  var openai: String?

  @Option(help: "What to ask the model; - reads it from standard input, so that no list of processes shows it.")
  var prompt: String?

  @Option(help: "A file with what to ask the model.")
  var promptFile: String?

  @Option(help: "Which model to ask.")
  var model = "default"

  @Option(help: "How long the model may take for its first event: 500ms, 30s, 5m; 0s is as long as it likes.")
  var firstEventTimeout = Wait(seconds: 0)

  @Option(help: "How long the model may be silent within its answer; 0s is as long as it likes.")
  var idleTimeout = Wait(seconds: 120)

  @Option(help: "A PEM file with the certificates to trust, in place of the system's.")
  var caFile: String?

  @Option(help: "Append what is meant and what is acknowledged to this file, texts included, for baton check.")
  var record: String?

  func validate() throws {
    guard url == nil ? SessionName(qualified: session) != nil : SessionName(session) != nil else {
      throw ValidationError(
        "The session '\(session)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -; in Redis perhaps TENANT/ before them"
      )
    }
    if let response, !Shape.name(response.utf8, upTo: 128) {
      throw ValidationError("The response '\(response)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if ack != nil, url != nil { throw ValidationError("--ack needs --redis: a gateway does not wait for replicas.") }
    if redis != nil, url != nil { throw ValidationError("Give --redis or --url, not both.") }
    if prompt != nil, promptFile != nil { throw ValidationError("Give --prompt or --prompt-file, not both.") }
    if openai != nil, prompt == nil, promptFile == nil { throw ValidationError("--openai needs a --prompt.") }
    if openai == nil, prompt != nil || promptFile != nil { throw ValidationError("--prompt needs --openai.") }
    for case let address? in [url, openai] where UpstreamAddress(address) == nil {
      throw ValidationError("'\(UpstreamAddress.masked(address))' is not an address like http://127.0.0.1:8080.")
    }
  }

  func run() async throws {
    do {
      try await publish()
    } catch let cannot as CannotRecord {
      say("publish", "\(cannot)")
      throw ExitCode(ExitStatus.output.rawValue)
    } catch let failure as PublishFailure {
      say("publish", "\(failure)")
      throw ExitCode(failure.status.rawValue)
    }
  }

  private func publish() async throws {
    guard let name = SessionName(qualified: session) else { return }
    let recorder = try record.map { (path) throws(CannotRecord) in try PublishRecorder(path, session: session) }
    let source = try await source()
    let opening = Opening(
      session: name, response: response ?? Opening.freshName, isResumable: source.isResumable)
    var target: any PublishTarget =
      if let url {
        try await GatewayTarget(
          url: url, opening, token: try Secret.header(token, from: "--token"), caFile: caFile)
      } else {
        try await RedisTarget(
          url: redis ?? "redis://127.0.0.1:6379/0", opening, prefix: keyPrefix, replicas: ack?.replicas ?? 0)
      }
    if let recorder { target = await RecordedTarget(target, recorder) }
    try await publish(source, to: target)
  }

  private enum Source: Sendable {
    case input
    case model(ModelSource)

    /// It goes on where a former publisher was.
    var isResumable: Bool { if case .input = self { true } else { false } }

    func publish(to target: any PublishTarget) async throws {
      switch self {
      case .input: try await StandardInput().publish(to: target)
      case .model(let model): try await model.publish(to: target)
      }
    }
  }

  /// Bytes of a prompt.
  private static let promptLimit = 16 << 20

  private func source() async throws -> Source {
    guard let openai, let address = UpstreamAddress(openai) else { return .input }
    let asked: String
    if let promptFile, promptFile != "-" {
      guard let data = FileManager.default.contents(atPath: promptFile) else {
        throw PublishFailure(status: .usage, description: "the prompt can't be read from '\(promptFile)'")
      }
      asked = String(decoding: data, as: UTF8.self)
    } else if promptFile == "-" || prompt == "-" {
      asked = String(buffer: try await StandardInput.all(limit: Self.promptLimit))
    } else {
      asked = prompt ?? ""
    }
    _ = try ModelSource.credentials(address)
    return .model(
      ModelSource(
        address: address, model: model, prompt: asked, caFile: caFile, firstLimit: firstEventTimeout.limit,
        idleLimit: idleTimeout.limit))
  }

  private enum Outcome: Sendable {
    case done
    case failed(any Error)
    case stopped(String)
    /// The response is over, whoever has ended it.
    case over
  }

  /// Until the source is dry, a device cancels, or a signal comes. Whatever happens, the response is given an end that tells it.
  private func publish(_ source: Source, to target: any PublishTarget) async throws {
    let (outcomes, continuation) = AsyncStream.makeStream(of: Outcome.self)
    let publishing = Task {
      do {
        try await source.publish(to: target)
        continuation.yield(.done)
      } catch {
        continuation.yield(.failed(error))
      }
    }
    let cancels = Task {
      for await message in target.messages where message.kind == .cancel { continuation.yield(.stopped("cancel")) }
      continuation.yield(.over)
    }
    let signals = Signals(hangup: true) { continuation.yield(.stopped("interrupted")) }
    defer {
      withExtendedLifetime(signals) {}
      cancels.cancel()
    }
    for await outcome in outcomes {
      switch outcome {
      case .stopped(let reason):
        // The end first, so that nothing which the source still has comes behind it.
        async let ended: Void = target.end(.cancelled, #"{"reason":"\#(reason)"}"#)
        publishing.cancel()
        return try await ended
      case .failed(let error):
        // Where the source has ended it, that end counts.
        try? await target.end(
          .error, UpstreamEnd(reason: .producer, message: (error as? PublishFailure)?.description).data)
        throw error
      case .over:
        // Its own end is waited for; otherwise this says what became of the response.
        try await target.end(.error, UpstreamEnd(reason: .producer).data)
      case .done: return
      }
    }
  }
}

/// What is opened.
struct Opening: Sendable {
  let session: SessionName
  let response: String
  /// What comes goes on where a former publisher of the response was. Otherwise a response that has begun is superseded.
  let isResumable: Bool

  static var freshName: String { "r-" + String(UInt64.random(in: 0 ... .max), radix: 36) }

  /// The name of a response that stands in place of the one asked for, the data of its start, and of the other's end.
  var successor: (name: String, start: String, end: String) {
    let name = "\(response.prefix(100))~\(String(UInt64.random(in: 0 ... .max), radix: 36))"
    return (name, #"{"supersedes":"\#(response)"}"#, #"{"reason":"superseded","by":"\#(name)"}"#)
  }

  func tellSuperseded(by name: String) {
    say(
      "publish",
      "\(response) was begun before and can't be gone on with: it ends with error, and this answer is \(name)")
  }
}

/// Where an answer is appended to; opened when it is made.
protocol PublishTarget: Sendable {
  /// The response's name.
  var response: String { get }
  var messages: AsyncStream<DeviceMessage> { get }
  /// Told of acknowledgements from now on; the number that the deltas go on after, if none was appended yet.
  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) async -> UInt64
  /// Waits while too much is on its way.
  func append(_ delta: ByteBuffer) async throws(PublishFailure)
  /// Returns when all of it is there. The first end counts.
  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure)
}

extension PublishTarget {
  /// As many deltas as it takes.
  func append(text: String) async throws(PublishFailure) {
    for piece in ByteBuffer(string: text).pieces() { try await append(piece) }
  }
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

  /// A client for an address, or why the environment has none.
  static func of(_ make: () throws(WebClient.Invalid) -> WebClient) throws(PublishFailure) -> WebClient {
    do {
      return try make()
    } catch {
      throw .configuration(error.description)
    }
  }
}
