import NIOConcurrencyHelpers
import NIOSSL

/// The certificate and the key of the listener, and whose certificates clients need, all of which may be read again.
/// Connections keep what they began with.
package final class ListenerTLS: Sendable {
  /// What clients have to prove by certificates of their own.
  struct Clients: Sendable, Equatable {
    /// Of the authorities.
    let path: String
    /// False: who brings none is let in all the same; a wrong one never is.
    let isRequired: Bool
  }

  package struct Objection: Error, Equatable {
    /// The option that is to be mended.
    package let option: String
    package let text: String
  }

  private let certPath: String
  private let keyPath: String
  /// Nil: they are not asked for any.
  let clients: Clients?
  private let current: NIOLockedValueBox<NIOSSLContext>

  /// - Throws: `Objection`.
  init(certPath: String, keyPath: String, clients: Clients? = nil) throws(Objection) {
    (self.certPath, self.keyPath, self.clients) = (certPath, keyPath, clients)
    current = NIOLockedValueBox(try ListenerTLS.read(certPath, keyPath, clients))
  }

  var context: NIOSSLContext { current.withLockedValue { $0 } }

  /// What was in use stays where they can't be used together.
  /// - Throws: `Objection`.
  func reload() throws(Objection) {
    let context = try ListenerTLS.read(certPath, keyPath, clients)
    current.withLockedValue { $0 = context }
  }

  private static func read(
    _ certPath: String, _ keyPath: String, _ clients: Clients?
  ) throws(Objection) -> NIOSSLContext {
    var authorities: [NIOSSLCertificate] = []
    if let clients {
      do {
        authorities = try NIOSSLCertificate.fromPEMFile(clients.path)
      } catch {
        throw Objection(option: "tls-client-ca", text: "can't be read as PEM certificates: \(error)")
      }
      if authorities.isEmpty { throw Objection(option: "tls-client-ca", text: "holds no certificate") }
    }
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
      if let clients {
        configuration.trustRoots = .certificates(authorities)
        configuration.certificateVerification = clients.isRequired ? .noHostnameVerification : .optionalVerification
        configuration.sendCANameList = true
      }
      return try NIOSSLContext(configuration: configuration)
    } catch {
      throw Objection(option: "tls-key", text: "can't be used with --tls-cert: \(error)")
    }
  }
}
