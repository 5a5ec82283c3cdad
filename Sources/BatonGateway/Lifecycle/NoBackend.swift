import BatonSession
import NIOCore

/// Stands in for a store that is never reached.
package struct NoBackend: GatewayBackend {
  package init() {}

  package func run() async throws { try await Task.sleep(for: .seconds(1 << 30)) }

  package func attach(_ request: DeviceRequest, on eventLoop: any EventLoop) -> EventLoopFuture<Admission> {
    eventLoop.makeFailedFuture(Problem.storeUnavailable)
  }

  package func history(_ request: HistoryRequest) async throws -> HistoryPage? { throw Problem.storeUnavailable }
  package func append(_ entry: NewEntry, to session: SessionName) async throws -> EntryID {
    throw Problem.storeUnavailable
  }
  package func delete(_ session: SessionName) async throws { throw Problem.storeUnavailable }
  package func response(_ response: String, in session: SessionName) async throws -> ResponseRecord? {
    throw Problem.storeUnavailable
  }
}
