import BatonProtocol

extension SessionAttachment {
  /// How to attach (section 3 of the protocol).
  public struct Options: Sendable {
    /// Where to begin.
    public enum Start: Sendable, Equatable {
      /// After this entry; `.zero` is all that is retained.
      case after(Offset)
      /// Only what comes from now on.
      case end
      /// The newest N entries, 1 to 10,000.
      case newest(Int)
      /// From the start of one response, nothing but that response, until its end.
      case response(String)
    }

    public var start = Start.after(.zero)
    /// Which deltas may come joined; nil leaves it to the gateway, which takes ``Rollup/auto``.
    public var rollup: Rollup?
    /// End once everything is there and no response is open.
    public var untilEnd = false
    /// A name for this device, 1 to 64 characters of `A-Z a-z 0-9 . _ ~ : @ -`; nil for a random one.
    public var device: String?
    /// A JWT. White space around it is left out.
    public var token: String?
    /// Asked for a new token when the old one expires or is refused, one question at a time; without it that is a ``Rejection``.
    public var renewToken: (@Sendable () async throws -> String)?
    /// Bytes of frames that wait for the app before the socket is no longer read.
    public var maxBufferedBytes = 1 << 20
    /// The largest frame that is accepted, in bytes, 125 to 2³²−1; a larger one is a ``Rejection``.
    public var maxFrameBytes = 16 << 20
    /// A PEM file with the certificates to trust, in place of the system's.
    public var trustedCertificates: String?

    public init() {}
  }

  /// Which adjacent deltas may come joined into one frame.
  public enum Rollup: Sendable, Equatable {
    /// While the device is behind; one by one when it is live.
    case auto
    /// None.
    case off
    /// Also when live: those of this time, 1 ms to 1 s; gateways round up to 20, 50, 100, 250 or 1,000 ms.
    case window(Duration)
  }
}

extension SessionAttachment.Options {
  /// - Throws: ``SessionAttachment/Invalid``.
  func machineOptions(urls: Int) throws -> ClientMachine.Options {
    typealias Invalid = SessionAttachment.Invalid
    var machine = ClientMachine.Options(urls: urls)
    switch start {
    case .after(let offset): machine.offset = offset.description
    case .end: machine.offset = "$"
    case .newest(let count):
      guard (1...10_000).contains(count) else { throw Invalid("the newest 1 to 10,000 entries can be had") }
      machine.last = count
    case .response(let name):
      guard Shape.name(name.utf8, upTo: 128) else {
        throw Invalid("a response's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -, not \"\(name)\"")
      }
      machine.response = name
    }
    if let device, !Shape.name(device.utf8, upTo: 64) {
      throw Invalid("a device's name is 1 to 64 characters of A-Z a-z 0-9 . _ ~ : @ -, not \"\(device)\"")
    }
    switch rollup {
    case nil: break
    case .auto: machine.rollup = "auto"
    case .off: machine.rollup = "off"
    case .window(let window):
      let milliseconds = Int((window / .milliseconds(1)).rounded(.up))
      guard (1...1000).contains(milliseconds) else { throw Invalid("a window of joining is 1 ms to 1 s") }
      machine.rollup = String(milliseconds)
    }
    machine.until = untilEnd ? "end" : nil
    machine.device = device
    machine.renewsToken = renewToken != nil
    return machine
  }

  /// A token as it can stand in a header field (RFC 9110 section 5.5).
  /// - Throws: ``SessionAttachment/Invalid``, without the token's text.
  static func checked(token: String) throws -> String {
    let bytes = token.utf8.drop(while: isSpace)
    let end = bytes.lastIndex { !isSpace($0) }.map { bytes.index(after: $0) } ?? bytes.startIndex
    let trimmed = bytes[bytes.startIndex..<end]
    guard trimmed.allSatisfy({ $0 > 0x20 && $0 < 0x7F }), !trimmed.isEmpty else {
      throw SessionAttachment.Invalid("a token is ASCII without blanks or line breaks; this one is not")
    }
    return String(Substring(trimmed))
  }

  private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }
}
