import NIOCore
import NIOPosix
import NIOSSL

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// In words that say what to mend: why there is no connection.
extension RedisError {
  /// Why no address of the server could be connected to; each is named.
  static func notConnected(_ error: any Error, _ url: RedisURL) -> RedisError {
    if let error = error as? RedisError { return error }
    guard let failure = error as? NIOConnectionError else { return .connectFailed("\(url): \(words(error))") }
    if let refused = failure.connectionErrors.first(where: { $0.error is NIOSSLError || $0.error is NIOSSLExtraError })
    {
      return .tls(refused.error, url, certificate: nil)
    }
    let attempts = failure.connectionErrors.map { attempt in
      let address = attempt.target.ipAddress ?? failure.host
      return "\(address.contains(":") ? "[\(address)]" : address):\(failure.port) \(words(attempt.error))"
    }
    if !attempts.isEmpty { return .connectFailed("\(url): \(attempts.joined(separator: ", "))") }
    if let error = failure.dnsAError ?? failure.dnsAAAAError {
      return .connectFailed("\(url): the host name can't be resolved (\(error))")
    }
    return .connectFailed("\(url): no address answered in time")
  }

  private static func words(_ error: any Error) -> String {
    switch error {
    case ChannelError.connectTimeout: "did not answer in time"
    case let error as IOError:
      switch error.errnoCode {
      case ECONNREFUSED: "refused: nothing listens there"
      case ETIMEDOUT: "did not answer in time"
      case EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL: "can't be reached: there is no route"
      case ENOENT: "there is no such socket"
      case EACCES, EPERM: "this process may not open it"
      default: String(cString: strerror(error.errnoCode))
      }
    default: "\(error)"
    }
  }

  /// What went wrong below the connection. `certificate` is the server's, where it has shown one.
  init(channel error: any Error, _ url: RedisURL, certificate: NIOSSLCertificate? = nil) {
    switch error {
    case let error as RedisError: self = error
    case NIOSSLError.uncleanShutdown: self = .connectionLost
    case is NIOSSLError, is NIOSSLExtraError, is BoringSSLError: self = .tls(error, url, certificate: certificate)
    case let error as IOError:
      self = RedisError(
        .retry, .connectionLost, "the connection to Redis was lost: \(String(cString: strerror(error.errnoCode)))")
    default: self = RedisError(.retry, .connectionLost, "the connection to Redis was lost: \(error)")
    }
  }

  /// NIOSSL tells what BoringSSL said, and not in values: its names of errors are looked for.
  private static func tls(_ error: any Error, _ url: RedisURL, certificate: NIOSSLCertificate?) -> RedisError {
    let text = "\(error)"
    func isAbout(_ names: String...) -> Bool { names.contains { text.contains($0) } }
    let host = if case .tcp(let host, _) = url.address { host } else { "localhost" }
    if isAbout("CERTIFICATE_VERIFY_FAILED") {
      var now = timespec()
      clock_gettime(CLOCK_REALTIME, &now)
      if let certificate, certificate.notValidAfter < now.tv_sec {
        return .tls("the server's certificate expired on \(day(certificate.notValidAfter)); renew it on the server")
      }
      if let certificate, certificate.notValidBefore > now.tv_sec {
        return .tls(
          "the server's certificate is not valid before \(day(certificate.notValidBefore)); check the clock here and there"
        )
      }
      let trusted = url.caFile.map { "by an authority in \($0)" } ?? "by an authority that this system trusts"
      return .tls(
        "the server's certificate was not issued \(trusted); "
          + "name the file of its authority in the Redis URL: ?cacert=FILE")
    }
    if isAbout("failedToValidateHostname", "FailedToValidateHostname", "hostname") {
      return .tls(
        "the server's certificate is not for \(host); use a name that it is for in the Redis URL, or renew it")
    }
    if isAbout("CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"), url.certificateFile == nil {
      return .tls(
        "the server wants a client certificate; name its files in the Redis URL: ?cert=FILE&key=FILE")
    }
    if let file = url.certificateFile,
      isAbout("ALERT_UNKNOWN_CA", "BAD_CERTIFICATE", "ALERT_CERTIFICATE", "ALERT_HANDSHAKE_FAILURE", "DECRYPT_ERROR")
    {
      return .tls(
        "the server refuses the client certificate in \(file); it wants one of its own authority that is valid")
    }
    if isAbout("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "UNSUPPORTED_PROTOCOL") {
      return .tls("the server does not speak TLS 1.2 or 1.3 there; write redis://, or the server's port for TLS")
    }
    return .tls(text)
  }

  private static func day(_ time: time_t) -> String {
    var (time, parts) = (time, tm())
    gmtime_r(&time, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
  }

  /// The server hung up before it had answered to the login, or not even that.
  static func noLogin(_ error: RedisError, _ url: RedisURL, hasAnswered: Bool) -> RedisError {
    switch error.reason {
    case .connectionLost:
      let hint =
        url.usesTLS
        ? "is its number of clients at its limit, or does it want another protocol than TLS?"
        : hasAnswered ? "is it shutting down?" : "does it want TLS (rediss://), or is it a proxy without a server?"
      return .connectFailed("\(url): the server hung up before it had answered the login; \(hint)")
    case .timedOut where url.usesTLS && !hasAnswered:
      return RedisError(
        .retry, .timedOut, "Redis did not answer in time (\(url)); does it speak TLS there? If not, write redis://")
    default: return error
    }
  }
}
