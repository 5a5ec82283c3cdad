import Foundation

extension GatewayConfiguration {
  /// Nil where no webhooks are sent.
  func webhooks(
    _ settings: Settings, environment: [String: String] = ProcessInfo.processInfo.environment
  ) throws -> WebhookSender.Options? {
    func time(_ name: String) throws -> Duration {
      guard let value = settings.milliseconds(name), value >= 1000 else {
        throw settings.mistake(name, "must be at least 1s")
      }
      return .milliseconds(value)
    }
    let (timeout, retryTime) = (try time("webhook-timeout"), try time("webhook-retry-time"))
    guard let urls = settings.list("webhook"), !urls.isEmpty else { return nil }
    for url in urls {
      // Not as it is: it may be a secret.
      if let objection = AuthClient.objection(to: url) { throw settings.mistake("webhook", objection) }
    }
    guard Set(urls).count == urls.count else { throw settings.mistake("webhook", "has an address twice") }
    var text = environment["BATON_WEBHOOK_SECRET"] ?? ""
    if let path = settings.text("webhook-secret-file") {
      guard let data = FileManager.default.contents(atPath: path), let read = String(data: data, encoding: .utf8) else {
        throw settings.mistake("webhook-secret-file", "can't be read")
      }
      text = read
    }
    let words = text.split(whereSeparator: \.isWhitespace)
    guard !words.isEmpty else {
      throw settings.mistake(
        "webhook", "needs a secret to sign with: --webhook-secret-file, or BATON_WEBHOOK_SECRET in the environment")
    }
    let secrets = words.compactMap { WebhookSecret($0) }
    guard secrets.count == words.count else {
      throw settings.mistake(
        "webhook-secret-file",
        "(or BATON_WEBHOOK_SECRET) must hold secrets of whsec_ and 24 to 64 bytes in base64; for example from: "
          + "echo whsec_$(openssl rand -base64 32)")
    }
    let events = settings.list("webhook-events") ?? WebhookSender.events
    for event in events where !WebhookSender.events.contains(event) {
      throw settings.mistake(
        "webhook-events", "must list some of \(WebhookSender.events.joined(separator: ", ")); \"\(event)\" is none")
    }
    let sweep = wakeup == .poll ? min(sweep, .seconds(5)) : sweep
    return WebhookSender.Options(
      urls: urls, secrets: secrets, events: Set(events), timeout: timeout,
      retryTime: retryTime, caFile: settings.text("webhook-ca-file"),
      sweep: .nanoseconds(sweep.nanoseconds), publicURL: publicURL)
  }
}
