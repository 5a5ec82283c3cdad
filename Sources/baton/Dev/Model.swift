import AsyncHTTPClient
import BatonGateway
import Foundation
import NIOCore

/// The language model behind the demo page, and the answers that are being written: each is a `baton publish`.
actor Model {
  private static let maxAnswers = 8

  private let endpoint: String?
  private let redis: String
  private let executable: URL
  private var answers: [String: Child] = [:]
  private var known: (name: String?, at: ContinuousClock.Instant)?

  init(endpoint: String?, redis: String) {
    self.endpoint = endpoint
    self.redis = redis
    executable = Bundle.main.executableURL ?? URL(fileURLWithPath: CommandLine.arguments[0])
  }

  /// The model's name, asked for at most every two seconds; nil where none answers.
  func name() async -> String? {
    if let known, .now - known.at < .seconds(2) { return known.name }
    guard let endpoint else { return nil }
    known = (known?.name, .now)
    let name = try? await Model.ask(endpoint)
    known = (name, .now)
    return name
  }

  private static func ask(_ endpoint: String) async throws -> String? {
    let completions = ModelSource.completions(endpoint)
    let models = completions.replacing(/\/chat\/completions$/, with: "/models")
    var request = HTTPClientRequest(url: models)
    if let key = ProcessInfo.processInfo.environment["OPENAI_API_KEY"], !key.isEmpty {
      request.headers.add(name: "authorization", value: "Bearer \(key)")
    }
    let response = try await HTTPClient.shared.execute(request, timeout: .seconds(5))
    let body = try await response.body.collect(upTo: 1 << 20)
    struct List: Decodable {
      struct Model: Decodable { var id: String }
      var data: [Model]
    }
    // Some servers have no list of models; then the name does not matter to them.
    guard response.status == .ok, let list = try? JSONDecoder().decode(List.self, from: Data(body.readableBytesView))
    else { return "default" }
    return list.data.first?.id ?? "default"
  }

  /// Fails where no answer could be started, so that no question is appended in vain.
  func check() async throws(DevFailure) { _ = try await ready() }

  private func ready() async throws(DevFailure) -> (endpoint: String, model: String) {
    guard let endpoint else {
      throw .unavailable("No model is running. Start with “baton dev --openai URL”, or publish from a terminal.")
    }
    guard let model = await name() else {
      throw .unavailable("The model at \(endpoint) does not answer. Is it running?")
    }
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
          "--model=\(model)", "--prompt=\(prompt)", "--key-prefix=baton:",
        ]
      ) { line in LineOutput.standardError.write("\(response): \(line)\n") }
    } catch {
      throw .fault("baton publish could not be started: \(error)")
    }
    return response
  }

  func stop() async {
    await withTaskGroup { group in for answer in answers.values { group.addTask { await answer.stop() } } }
  }
}
