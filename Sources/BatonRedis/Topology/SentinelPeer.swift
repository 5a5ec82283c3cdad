import NIOCore

/// One Sentinel, over two connections: one that hears of switches and one for questions. Everything is called, and calls
/// back, on one event loop.
final class SentinelPeer {
  /// Another Sentinel that it knows.
  struct Other: Equatable {
    var address: RedisURL.Address
    /// Drawn once by each Sentinel; nil where it is not told.
    var id: String?
  }

  enum Word {
    case names(RedisURL.Address)
    /// It does not answer, or does not know the master.
    case silent(RedisError)
    case knows([Other])
  }

  let address: RedisURL.Address
  private(set) var id: String?

  private let eventLoop: any EventLoop
  private let name: String
  private let told: (Word) -> Void
  private var hearing: RedisLink?
  private var asking: RedisLink?
  private var lastAskedForOthers: NIODeadline?

  static let patience = TimeAmount.seconds(2)
  /// How often it is asked whom it knows.
  static let pause = TimeAmount.seconds(10)

  /// - Parameters:
  ///   - connector: of a URL with the topology `sentinel`.
  ///   - name: of the master.
  ///   - random: 0 to 1, for pauses between attempts.
  init(
    _ connector: RedisConnector, at address: RedisURL.Address, master name: String, on eventLoop: any EventLoop,
    random: @escaping () -> Double, told: @escaping (Word) -> Void
  ) {
    (self.address, self.name, self.eventLoop, self.told) = (address, name, eventLoop, told)
    let one = connector.to(connector.url.sentinel(at: address))
    hearing = RedisLink(
      one, on: eventLoop, random: random, setUp: { [weak self] in self?.hear($0, $1) }, report: { _ in })
    asking = RedisLink(one, on: eventLoop, keepAlive: nil, random: random) { [weak self] event in
      switch event {
      case .up:
        self?.lastAskedForOthers = nil
        self?.ask()
      case .down(let failure): self?.told(.silent(failure.error))
      }
    }
  }

  func start() {
    hearing?.start()
    asking?.start()
  }

  func stop() {
    hearing?.stop()
    asking?.stop()
  }

  private func hear(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    connection.onPush = { [weak self] in self?.announced($0) }
    connection.send([RedisCommand("SUBSCRIBE", "+switch-master")], deadline: eventLoop.now + Self.patience) { result in
      done(result.flatMap { $0.first?.error.map { .failure($0) } ?? .success(()) })
    }
  }

  /// `<master name> <old ip> <old port> <new ip> <new port>`
  private func announced(_ message: RESPReply) {
    guard let parts = message.elements.map(Array.init), parts.count == 3, parts[1].text == "+switch-master",
      let words = parts[2].text?.split(separator: " "), words.count == 5, words[0] == name, let port = Int(words[4])
    else { return }
    told(.names(.tcp(host: String(words[3]), port: port)))
  }

  /// To be called twice a second.
  func ask() {
    guard let connection = asking?.connection else { return }
    let question = RedisCommand("SENTINEL", "GET-MASTER-ADDR-BY-NAME", .string(name))
    connection.send([question], deadline: eventLoop.now + Self.patience) { [weak self] result in
      guard let self, case .success(let replies) = result, let reply = replies.first else { return }
      if let error = reply.error { return self.told(.silent(error)) }
      guard let parts = reply.elements.map(Array.init), parts.count == 2, let host = parts[0].text,
        let port = parts[1].integer, (1...65535).contains(port)
      else {
        return self.told(.silent(.connectFailed("it does not know a master of this name")))
      }
      self.told(.names(.tcp(host: host, port: Int(port))))
    }
    if let last = lastAskedForOthers, eventLoop.now - last < Self.pause { return }
    lastAskedForOthers = eventLoop.now
    askForOthers(connection)
  }

  /// Whoever may not ask knows nobody by it.
  private func askForOthers(_ connection: RedisConnection) {
    let questions = [RedisCommand("SENTINEL", "MYID"), RedisCommand("SENTINEL", "SENTINELS", .string(name))]
    connection.send(questions, deadline: eventLoop.now + Self.patience) { [weak self] result in
      guard let self, case .success(let replies) = result, replies.count == questions.count else { return }
      self.id = replies[0].error == nil ? replies[0].text : nil
      guard let others = replies[1].elements else { return }
      self.told(.knows(others.compactMap(Self.other)))
    }
  }

  /// Names and values in turn.
  private static func other(_ reply: RESPReply) -> Other? {
    guard let words = reply.elements.map(Array.init) else { return nil }
    var fields: [String: String] = [:]
    for at in stride(from: 0, to: words.count - 1, by: 2) {
      if let name = words[at].text, let value = words[at + 1].text { fields[name] = value }
    }
    guard let host = fields["ip"], !host.isEmpty, let port = fields["port"].flatMap({ Int($0) }),
      (1...65535).contains(port)
    else { return nil }
    return Other(address: .tcp(host: host, port: port), id: fields["runid"].flatMap { $0.isEmpty ? nil : $0 })
  }
}
