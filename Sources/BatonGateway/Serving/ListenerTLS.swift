import NIOConcurrencyHelpers
import NIOSSL

/// The certificate and the key of the listener, which may be read again. Connections keep what they began with.
package final class ListenerTLS: Sendable {
  package struct Objection: Error, Equatable {
    /// The option that is to be mended.
    package let option: String
    package let text: String
  }

  private let certPath: String
  private let keyPath: String
  private let current: NIOLockedValueBox<NIOSSLContext>

  /// - Throws: `Objection`.
  init(certPath: String, keyPath: String) throws(Objection) {
    (self.certPath, self.keyPath) = (certPath, keyPath)
    current = NIOLockedValueBox(try ListenerTLS.read(certPath, keyPath))
  }

  var context: NIOSSLContext { current.withLockedValue { $0 } }

  /// What was in use stays where they can't be used together.
  /// - Throws: `Objection`.
  func reload() throws(Objection) {
    let context = try ListenerTLS.read(certPath, keyPath)
    current.withLockedValue { $0 = context }
  }

  private static func read(_ certPath: String, _ keyPath: String) throws(Objection) -> NIOSSLContext {
    let chain: [NIOSSLCertificateSource]
    do {
      chain = try NIOSSLCertificate.fromPEMFile(certPath).map { .certificate($0) }
    } catch {
      throw Objection(option: "tls-cert", text: "can't be read as PEM certificates: \(error)")
    }
    do {
      var configuration = TLSConfiguration.makeServerConfiguration(
        certificateChain: chain, privateKey: .privateKey(try NIOSSLPrivateKey(file: keyPath, format: .pem)))
      configuration.minimumTLSVersion = .tlsv12
      configuration.applicationProtocols = ["http/1.1"]
      return try NIOSSLContext(configuration: configuration)
    } catch {
      throw Objection(option: "tls-key", text: "can't be used with --tls-cert: \(error)")
    }
  }
}
