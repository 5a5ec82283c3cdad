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
    backend: @Sendable (GatewayConfiguration, GatewayParts) throws -> any GatewayBackend
  ) async -> Int32 {
    let configuration: GatewayConfiguration
    do {
      let settings = try await Settings(GatewaySettings.table, arguments: arguments, environment: environment)
      configuration = try GatewayConfiguration(settings)
      if settings.flag("print-config") {
        print(settings.printed)
        return 0
      }
    } catch let mistake as Settings.Mistake {
      complain("\(mistake)" + (mistake.exitStatus == 64 ? "\nbaton serve --help lists the options" : ""))
      return mistake.exitStatus
    } catch {
      complain("\(error)")
      return 70
    }
    return await serve(configuration, backend)
  }

  private static func serve(
    _ configuration: GatewayConfiguration,
    _ backend: @Sendable (GatewayConfiguration, GatewayParts) throws -> any GatewayBackend
  ) async -> Int32 {
    let isJSON = configuration.logsJSON
    var logger = Logger(label: "baton") { LogLines(label: $0, level: configuration.logLevel, isJSON: isJSON) }
    logger[metadataKey: "node"] = "\(configuration.node)"
    let parts = GatewayParts(configuration: configuration, logger: logger)
    let announcing = logger
    let scheme = configuration.tls == nil ? "http" : "https"
    let made: any GatewayBackend
    do {
      made = try backend(configuration, parts)
    } catch {
      complain("\(error)")
      return 78
    }
    let gateway = Gateway(configuration: configuration, parts: parts, backend: made) {
      address in
      let line = "listening on \(scheme)://\(text(address))"
      if isJSON {
        // Also where the level hides it: others wait for this line.
        LogLines(label: "baton", level: .info, isJSON: true).announce(line, node: configuration.node)
      } else {
        FileHandle.standardError.write(Data("\(line)\n".utf8))
      }
      announcing.debug("ready for requests")
    }
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [.init(service: gateway, successTerminationBehavior: .gracefullyShutdownGroup)], logger: logger.muted)
    )
    let signals = Task {
      var isFirst = true
      for await _ in await UnixSignalsSequence(trapping: .sigterm, .sigint) {
        if !isFirst { exit(0) }
        isFirst = false
        await group.triggerGracefulShutdown()
      }
    }
    defer { signals.cancel() }
    if configuration.exitsWithStandardInput {
      Thread.detachNewThread {
        while !FileHandle.standardInput.availableData.isEmpty {}
        exit(0)
      }
    }
    do {
      try await group.run()
      return 0
    } catch let error as IOError {
      complain("can't listen on \(configuration.host):\(configuration.port): \(error)")
      return 78
    } catch let error as SocketAddressError {
      complain("can't listen on \(configuration.host):\(configuration.port): \(error)")
      return 78
    } catch {
      complain("\(error)")
      return 70
    }
  }

  private static func text(_ address: SocketAddress) -> String {
    let host = address.ipAddress ?? "unknown"
    return "\(host.contains(":") ? "[\(host)]" : host):\(address.port ?? 0)"
  }

  private static func complain(_ text: String) {
    FileHandle.standardError.write(Data("baton serve: \(text)\n".utf8))
  }
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
