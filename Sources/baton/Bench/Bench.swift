#if os(Linux)
  import ArgumentParser
  import BatonGateway
  import Foundation

  struct Bench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Measure a gateway: CPU for each delivery, latency, memory, and what others need for the same.",
      discussion: """
        Starts a gateway and a Redis of its own for each workload, attaches devices, appends entries, checks the order and \
        the completeness of everything that the devices are sent, and takes the CPU time that the system has accounted.

        Workloads: \(Workload.all.map(\.name).joined(separator: ", ")).

        --against limit: one thread that calls send(2) with the same frames, once an entry and device. --against nchan and \
        nchan-redis: nginx with nchan, in memory and with Redis (apt install nginx libnginx-mod-nchan).
        """)

    @Argument(help: "What is to be measured; all of it without.")
    var workloads: [String] = []

    @Option(help: "Who does the same work, in turn: limit, nchan, nchan-redis, separated by commas.")
    var against: String?

    @Option(help: "The program that serves, such as another version's; this one without.")
    var gateway: String?

    @Option(help: "How long a rate is measured, in seconds, 1 to 3600.")
    var seconds = 10.0

    @Option(help: "How often; the figures are the medians.")
    var runs = 1

    @Option(help: "A part of the devices and sessions, 0.001 to 1.")
    var scale = 1.0

    @Flag(help: "One JSON array with all figures instead of tables.")
    var json = false

    func validate() throws {
      for name in workloads where !Workload.all.contains(where: { $0.name == name }) {
        throw ValidationError(
          "There is no workload '\(name)'; there are \(Workload.all.map(\.name).joined(separator: ", ")).")
      }
      _ = try contenders()
      if let gateway, !FileManager.default.isExecutableFile(atPath: gateway) {
        throw ValidationError("--gateway: \(gateway) is no program.")
      }
      guard (1...3600).contains(seconds) else { throw ValidationError("--seconds must be from 1 to 3600.") }
      guard (1...100).contains(runs) else { throw ValidationError("--runs must be from 1 to 100.") }
      guard (0.001...1).contains(scale) else { throw ValidationError("--scale must be from 0.001 to 1.") }
    }

    private func contenders() throws -> [ContenderName] {
      let others = try (against ?? "").split(separator: ",").map { name in
        guard let other = ContenderName(rawValue: name.trimmingCharacters(in: .whitespaces)), other != .baton else {
          throw ValidationError("--against takes limit, nchan and nchan-redis, not '\(name)'.")
        }
        return other
      }
      return [.baton] + others
    }

    func run() async throws {
      raiseDescriptorLimit()
      signal(SIGPIPE, SIG_IGN)
      let names = workloads.isEmpty ? Workload.all.map(\.name) : workloads
      var results: [Measurement] = []
      for workload in names.compactMap({ name in Workload.all.first { $0.name == name } }) {
        let measured = try await measure(workload.scaled(by: scale))
        results += measured
        if !json { try StandardOutput.write(BenchTable.lines(workload, measured).joined(separator: "\n") + "\n\n") }
      }
      if json {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try StandardOutput.write(String(decoding: try encoder.encode(results), as: UTF8.self) + "\n")
      }
      if results.contains(where: { $0.contender == "baton" && !$0.faults.isEmpty }) {
        throw ExitCode(ExitStatus.fault.rawValue)
      }
    }

    private func measure(_ workload: Workload) async throws -> [Measurement] {
      let served =
        gateway.map { URL(fileURLWithPath: $0) } ?? Bundle.main.executableURL
        ?? URL(fileURLWithPath: CommandLine.arguments[0])
      let contenders = try contenders().filter { $0.does(workload) }
      var measured: [ContenderName: [Measurement]] = [:]
      for run in 1...runs {
        for name in contenders {
          let label = "\(workload.name), \(name.rawValue)" + (runs > 1 ? ", \(run) of \(runs)" : "")
          do {
            say("bench", label)
            let one = BenchRun(workload: workload, name: name, gateway: served, seconds: seconds) {
              say("bench", "\(label): \($0)")
            }
            measured[name, default: []].append(try await one.measure())
          } catch let failure as BenchFailure {
            say("bench", "\(failure)")
            if name == .baton { throw ExitCode(ExitStatus.fault.rawValue) }
          } catch let failure as DevFailure {
            say("bench", "\(failure)")
            throw ExitCode(failure.status.rawValue)
          }
        }
      }
      return contenders.compactMap { measured[$0].map(Measurement.median) }
    }

    /// Each device is a descriptor here and one in the server.
    private func raiseDescriptorLimit() {
      var limit = rlimit(rlim_cur: 65_536, rlim_max: 65_536)
      if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 { return }
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      limit.rlim_cur = limit.rlim_max
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
  }

  extension ContenderName {
    fileprivate func does(_ workload: Workload) -> Bool {
      switch self {
      case .baton: true
      case .limit: workload.kind == .live && workload.idleSessions == 0 || workload.kind == .storm
      case .nchan, .nchanRedis: workload.kind != .memory && workload.idleSessions == 0
      }
    }
  }

  /// Measurements as people read them.
  enum BenchTable {
    static func lines(_ workload: Workload, _ measured: [Measurement]) -> [String] {
      guard let ours = measured.first else { return [] }
      let figures = Measurement.figures.filter { figure in measured.contains { $0[keyPath: figure.path] != nil } }
      var rows = [[workload.name] + figures.map { "\($0.name) \($0.unit)" }]
      for one in measured { rows.append([one.contender] + figures.map { shown(one[keyPath: $0.path]) }) }
      for one in measured.dropFirst() {
        rows.append(
          ["baton / \(one.contender)"]
            + figures.map { figure in
              guard let mine = ours[keyPath: figure.path], let theirs = one[keyPath: figure.path], theirs > 0 else {
                return ""
              }
              return shown(mine / theirs)
            })
      }
      let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
      var lines = rows.enumerated().map { index, row in
        "| " + zip(row, widths).map { $0.padding(toLength: $1, withPad: " ", startingAt: 0) }.joined(separator: " | ")
          + " |"
      }
      lines.insert("|" + widths.map { String(repeating: "-", count: $0 + 2) }.joined(separator: "|") + "|", at: 1)
      for one in measured { for fault in one.faults { lines.append("\(one.contender): \(fault)") } }
      return lines
    }

    private static func shown(_ value: Double?) -> String {
      guard let value else { return "" }
      let digits = value >= 1000 ? 0 : value >= 100 ? 1 : value >= 1 ? 2 : 3
      return String(format: "%.\(digits)f", value)
    }
  }
#endif
