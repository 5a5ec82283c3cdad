import AsyncHTTPClient
import BatonGateway
import BatonRelay
import BatonUpstream
import Foundation
import NIOCore

/// The language model behind the demo page, and the answers that are being written: each is a `baton publish`.
actor Model {
  private static let maxAnswers = 8

  private let endpoint: String?
  private let address: UpstreamAddress?
  /// The one to ask; nil takes one of the server's list.
  private let chosen: String?
  private let redis: String
  private let executable: URL
  private var answers: [String: Child] = [:]
  private var known: (name: Result<String, DevFailure>, at: ContinuousClock.Instant)?

  init(endpoint: String?, model: String?, redis: String) {
    self.endpoint = endpoint
    (address, chosen) = (endpoint.flatMap { UpstreamAddress($0) }, model)
    self.redis = redis
    executable = Bundle.main.executableURL ?? URL(fileURLWithPath: CommandLine.arguments[0])
  }

  /// The model's name, or why there is none; asked for at most every two seconds. Nil without an address.
  func name() async -> Result<String, DevFailure>? {
    guard let address else { return nil }
    if let known, .now - known.at < .seconds(2) { return known.name }
    if let old = known?.name { known = (old, .now) }
    let name: Result<String, DevFailure>
    do throws(DevFailure) {
      name = .success(try await ask(address))
    } catch {
      name = .failure(error)
    }
    known = (name, .now)
    return name
  }

  private func ask(_ address: UpstreamAddress) async throws(DevFailure) -> String {
    let place = "The model server at \(address)"
    let status: Int
    let body: ByteBuffer
    do {
      let web = try PublishFailure.of { () throws(WebClient.Invalid) in try WebClient(for: address.models, caFile: nil)
      }
      var request = HTTPClientRequest(url: web.target(address.models))
      for (name, value) in try ModelSource.credentials(address) { request.headers.add(name: name, value: value) }
      let response = try await web.client.execute(request, timeout: .seconds(5))
      (status, body) = (Int(response.status.code), try await response.body.collect(upTo: 4 << 20))
    } catch let failure as PublishFailure {
      throw .unavailable(failure.description)
    } catch {
      throw .unavailable("\(place) does not answer (\(WebClient.words(error))). Is it running?")
    }
    if let chosen { return chosen }
    let said = UpstreamMessage.find(inBody: body.readableBytesView).map { ": \($0)" } ?? ""
    switch status {
    case 200..<300: break
    case 401, 403: throw .unavailable("\(place) wants another key than OPENAI_API_KEY has (\(status))\(said)")
    // Some servers have no list of models; then the name does not matter to them.
    case 404, 405, 501: return "default"
    default: throw .unavailable("\(place) gives no list of models (\(status))\(said). Name one with --model.")
    }
    let (values, isAll) = LenientJSON.values(body.readableBytesView)
    guard isAll, let list = values.first,
      let models = list["data"]?.elements ?? list["models"]?.elements ?? list.elements
    else { throw .unavailable("\(place) answers with something else than a list of models. Name one with --model.") }
    let names = models.compactMap { $0["id"]?.text ?? $0["name"]?.text ?? $0.text }.filter { !$0.isEmpty }
    guard !names.isEmpty else {
      throw .unavailable("\(place) has no models in its list. Load one, or name one with --model.")
    }
    guard let name = names.first(where: Self.mayAnswer) else {
      throw .unavailable(
        "\(place) lists no model that answers questions, only \(names.prefix(3).joined(separator: ", ")). Name one with --model."
      )
    }
    return name
  }

  /// Models for other purposes say so in their names.
  private static func mayAnswer(_ name: String) -> Bool {
    let name = name.lowercased()
    let others = [
      "embed", "rerank", "whisper", "tts", "dall-e", "moderation", "transcri", "bge-", "gte-", "e5-", "minilm", "clip",
      "stable-diffusion", "flux", "sora", "gpt-image", "realtime", "speech", "colbert",
    ]
    return !others.contains { name.contains($0) } && !name.hasPrefix("davinci") && !name.hasPrefix("babbage")
  }

  /// Fails where no answer could be started, so that no question is appended in vain.
  func check() async throws(DevFailure) { _ = try await ready() }

  private func ready() async throws(DevFailure) -> (endpoint: String, model: String) {
    guard let endpoint, let name = await name() else {
      throw .unavailable("No model is running. Start with “baton dev --openai URL”, or publish from a terminal.")
    }
    let model = try name.get()
    answers = answers.filter { $0.value.isRunning }
    guard answers.count < Model.maxAnswers else {
      throw .unavailable("\(Model.maxAnswers) answers are being written already; wait for one of them, or stop it.")
    }
    return (endpoint, model)
  }

  /// Starts an answer and gives its response's name.
  func answer(_ prompt: String, in session: String) async throws(DevFailure) -> String {
    let (endpoint, model) = try await ready()
    let response = "r-" + String(UInt64.random(in: 0 ... .max), radix: 36)
    do {
      answers[response] = try Child(
        executable,
        [
          "publish", session, "--redis=\(redis)", "--response=\(response)", "--openai=\(endpoint)",
          "--model=\(model)", "--prompt=-", "--key-prefix=baton:",
        ],
        input: Data(prompt.utf8)
      ) { line in say("dev", "\(response): \(line)") }
    } catch {
      throw .fault("baton publish could not be started: \(error)")
    }
    return response
  }

  func stop() async {
    await withTaskGroup { group in for answer in answers.values { group.addTask { await answer.stop() } } }
  }
}
