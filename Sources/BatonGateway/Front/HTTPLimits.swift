import NIOCore

/// Bounds of a connection that carries HTTP.
package struct HTTPLimits: Sendable {
  /// Of the request line and the headers together.
  package var maxHeaderBytes = 16 * 1024
  /// Until the first request's head is there.
  package var headerTimeout: TimeAmount = .seconds(10)
  /// Between requests, and between the pieces of a JSON body.
  package var idleTimeout: TimeAmount = .seconds(60)
  /// Between the pieces of an NDJSON upload: models think for minutes.
  package var uploadTimeout: TimeAmount = .minutes(30)
  /// Of a JSON body, whole; of an upload, whole.
  package var maxBodyTime: TimeAmount = .minutes(5)
  package var maxUploadTime: TimeAmount = .hours(24)
  /// Bytes a second of a JSON body, once it has had `headerTimeout`.
  package var minBodyRate = 256
  /// Of one upload.
  package var maxUploadBytes = 256 << 20
  /// Requests that are worked on at a time.
  package var maxRequests = 10_000
  /// Of a request to append, and of each line of an upload.
  package var maxBodyBytes = 1 << 20
  /// Names and values of one entry together.
  package var maxEntryBytes = 256 << 10

  package init() {}
}
