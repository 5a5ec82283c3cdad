import BatonGateway
import Foundation

/// The gateways of `baton dev`: child processes of this very executable, kept running.
actor Fleet {
  struct Gateway: Sendable {
    let name: String
    /// From its first start on; it keeps its port.
    var port: Int?
    var isAlive: Bool
  }

  private struct Member {
    let name: String
    var port: Int?
    var child: Child?
  }

  private let executable: URL
  private let host: String
  private let options: [String]
  private var members: [Member]
  private var isStopping = false

  /// - Parameter options: of each `baton serve`, beside its name and address.
  init(count: Int, host: String, options: [String]) {
    executable = Bundle.main.executableURL ?? URL(fileURLWithPath: CommandLine.arguments[0])
    self.host = host
    self.options = options
    members = (1...count).map { Member(name: "gw-\($0)", port: nil, child: nil) }
  }

  var gateways: [Gateway] {
    members.map { Gateway(name: $0.name, port: $0.port, isAlive: $0.child?.isRunning == true) }
  }

  func start() throws { for index in members.indices { try start(index) } }

  private func start(_ index: Int) throws {
    let name = members[index].name
    let address = host.contains(":") ? "[\(host)]" : host
    var environment = ProcessInfo.processInfo.environment
    // What is meant for a gateway of one's own would surprise here.
    for key in environment.keys where key.hasPrefix("BATON_") { environment[key] = nil }
    let child = try Child(
      executable,
      ["serve", "--node", name, "--listen", "\(address):\(members[index].port ?? 0)", "--exit-with-stdin"] + options,
      environment: environment
    ) { line in
      if let port = line.wholeMatch(of: /listening on .*:(\d+)/).flatMap({ Int($0.1) }) {
        Task { await self.listening(name, port) }
      } else {
        LineOutput.standardError.write("\(name): \(line)\n")
      }
    }
    members[index].child = child
    Task {
      await child.exit()
      await self.ended(name, child)
    }
  }

  private func listening(_ name: String, _ port: Int) {
    guard let index = members.firstIndex(where: { $0.name == name }) else { return }
    members[index].port = port
  }

  private func ended(_ name: String, _ child: Child) async {
    guard !isStopping, let index = members.firstIndex(where: { $0.name == name && $0.child === child }) else { return }
    members[index].child = nil
    // Long enough that one sees the devices go to the other one.
    try? await Task.sleep(for: .seconds(3))
    if !isStopping, members[index].child == nil { try? start(index) }
  }

  /// False where there is none of that name.
  func kill(_ name: String) -> Bool {
    guard let member = members.first(where: { $0.name == name }) else { return false }
    member.child?.signal(SIGKILL)
    return true
  }

  /// Drains it and starts it again at once. False where there is none of that name.
  func restart(_ name: String) async throws -> Bool {
    guard let index = members.firstIndex(where: { $0.name == name }) else { return false }
    let old = members[index].child
    // Not to be started by `ended` as well.
    members[index].child = nil
    await old?.stop()
    if !isStopping, members[index].child == nil { try start(index) }
    return true
  }

  func stop() async {
    isStopping = true
    await withTaskGroup { group in for member in members { group.addTask { await member.child?.stop() } } }
  }
}
