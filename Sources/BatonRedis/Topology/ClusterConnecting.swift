import NIOCore

/// Whoever opens connections to any node of a cluster.
package protocol ClusterConnecting: Sendable {
  /// Nodes that are listed; one at least.
  var seeds: [RedisURL.Address] { get }
  var usesTLS: Bool { get }
  /// Succeeds after the login; fails with a ``RedisError``.
  func connect(to node: RedisURL.Address, on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection>
}

extension RedisConnector: ClusterConnecting {
  package var seeds: [RedisURL.Address] { url.seeds }
  package var usesTLS: Bool { url.usesTLS }

  package func connect(
    to node: RedisURL.Address, on eventLoop: any EventLoop
  ) -> EventLoopFuture<RedisConnection> {
    to(url.server(at: node)).connect(on: eventLoop)
  }
}
