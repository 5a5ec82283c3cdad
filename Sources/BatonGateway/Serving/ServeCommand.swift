import Dispatch
import Foundation
import Logging
import NIOCore
import ServiceLifecycle
import UnixSignals

/// `baton serve` from its arguments to its exit status.
package enum ServeCommand {
  /// - Parameter backend: what stands between the front and Redis.
  /// - Returns: the process's exit status.
  package static func run(
    _ arguments: [String], environment: [String: String],
    backend: @Sendable (GatewayConfiguration, GatewayParts) throws -> GatewayBackend
  ) async -> Int32 {
    // Until they are trapped they would end the process.
    for number in [SIGHUP, SIGUSR1, SIGUSR2] { signal(number, SIG_IGN) }
    let configuration: GatewayConfiguration
    do {
      let settings = try Settings(GatewaySettings.table, arguments: arguments, environment: environment)
      configuration = try await GatewayConfiguration(settings)
      if settings.flag("print-config") {
        try StandardOutput.write(settings.printed + "\n")
        return 0
      }
      if settings.flag("check") {
        let (lines, status) = await ServeCheck.run(configuration)
        if status == 0 {
          try StandardOutput.write(lines.joined(separator: "\n") + "\n")
        } else {
          for line in lines { complain(line) }
        }
        return status
      }
    } catch let mistake as Settings.Mistake {
      complain("\(mistake)" + (mistake.exitStatus == 64 ? "\nbaton serve --help lists the options" : ""))
      return mistake.exitStatus
    } catch let failure as Descriptor.Failure {
      complain("\(failure)")
      return failure.nobodyReads ? 0 : 74
    } catch {
      complain("\(error)")
      return 70
    }
    return await serve(configuration, ServiceManager(environment: environment), backend)
  }

  private static func serve(
    _ configuration: GatewayConfiguration, _ manager: ServiceManager?,
    _ backend: @Sendable (GatewayConfiguration, GatewayParts) throws -> GatewayBackend
  ) async -> Int32 {
    var logger = Logger(label: "baton") {
      LogLines(label: $0, level: configuration.logLevel, isJSON: configuration.logsJSON)
    }
    logger[metadataKey: "node"] = "\(configuration.node)"
    logger.info("starting", metadata: ["version": "\(batonVersion)", "redis": "\(configuration.redis)"])
    let parts = GatewayParts(configuration: configuration, logger: logger)
    for (option, meaning) in configuration.insecurities {
      parts.metrics.insecure(option, meaning != nil)
      if let meaning { logger.warning("--\(option): \(meaning)") }
    }
    for option in configuration.secretsInFlags {
      let variable = "BATON_" + option.uppercased().replacing("-", with: "_")
      logger.warning(
        "--\(option) holds credentials, which every user of this machine can read: use \(variable) or --config")
    }
    let made: GatewayBackend
    do {
      made = try backend(configuration, parts)
    } catch {
      complain("\(error)")
      return 78
    }
    if configuration.listen.isTaken {
      complain("can't listen on \(configuration.listen): it is in use")
      return 78
    }
    let gateway = Gateway(configuration: configuration, parts: parts, backend: made) { address in
      let line = "listening on \(shown(address, configuration))"
      manager?.isReady(line)
      if configuration.logsJSON {
        // Also where the level hides it: others wait for this line.
        LogLines(label: "baton", level: .info, isJSON: true).announce(line, node: configuration.node)
      } else {
        LineOutput.standardError.write("\(line)\n")
      }
    }
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [.init(service: gateway, successTerminationBehavior: .gracefullyShutdownGroup)], logger: logger.muted)
    )
    let tasks: [Task<Void, Never>] = [
      Task { [logger] in await obeySignals(group, gateway, manager, logger) },
      Task { await manager?.watch(parts.eventLoopGroup) },
    ]
    defer { for task in tasks { task.cancel() } }
    if configuration.exitsWithStandardInput { exitWithStandardInput() }
    do {
      defer { configuration.auditFile?.output.flush(within: .seconds(1)) }
      try await group.run()
      if case .unix(let path) = configuration.listen { unlink(path) }
      return 0
    } catch let error where error is IOError || error is SocketAddressError {
      complain("can't listen on \(configuration.listen): \(error)")
      return 78
    } catch {
      complain("\(error)")
      return 70
    }
  }

  private static func obeySignals(
    _ group: ServiceGroup, _ gateway: Gateway, _ manager: ServiceManager?, _ logger: Logger
  ) async {
    var isStopping = false
    for await signal in await UnixSignalsSequence(trapping: .sigterm, .sigint, .sigquit, .sighup, .sigusr1, .sigusr2) {
      switch signal {
      case .sigterm, .sigint, .sigquit:
        if isStopping { end(0) }
        isStopping = true
        manager?.isStopping()
        await group.triggerGracefulShutdown()
      case .sighup: await gateway.reload()
      default:
        logger.notice(
          "ignored a signal",
          metadata: ["signal": "\(signal)"])
      }
    }
  }

  private static func exitWithStandardInput() {
    Thread.detachNewThread {
      var byte: UInt8 = 0
      while true {
        let count = read(STDIN_FILENO, &byte, 1)
        if count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN) { end(0) }
      }
    }
  }

  /// At once, but for log lines that somebody reads.
  private static func end(_ status: Int32) -> Never {
    LineOutput.standardError.flush(within: .milliseconds(500))
    exit(status)
  }

  private static func shown(_ address: SocketAddress, _ configuration: GatewayConfiguration) -> String {
    guard let host = address.ipAddress else { return "\(configuration.listen)" }
    return "\(configuration.tls == nil ? "http" : "https")://\(ListenAddress.tcp(host: host, port: address.port ?? 0))"
  }

  private static func complain(_ text: String) { LineOutput.standardError.write("baton serve: \(text)\n") }
}

extension LogLines {
  fileprivate func announce(_ line: String, node: String) {
    var logger = Logger(label: "baton") { _ in self }
    logger[metadataKey: "node"] = "\(node)"
    logger.info("\(line)")
  }
}

extension Logger {
  /// The service group's own records say nothing that ours don't.
  fileprivate var muted: Logger {
    var logger = self
    logger.logLevel = max(logLevel, .error)
    return logger
  }
}
