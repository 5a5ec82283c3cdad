import NIOCore

/// Why continuity is broken (the table of PROTOCOL 4).
package enum ResetReason: String, Sendable {
  case trimmed, diverged, ahead, deleted
}

/// What a gateway says to a device besides entries (PROTOCOL 4): everything that has a `type`.
package enum ControlFrame: Sendable, Equatable {
  package struct Attached: Sendable, Equatable {
    package var session: String
    package var device: String
    package var node: String
    package var offset: Offset
    package var recovered: Bool
    package var first: Offset?
    package var last: Offset?
    package var pingMs: Int
    package var features: [String]

    package init(
      session: String, device: String, node: String, offset: Offset, recovered: Bool = false, first: Offset?,
      last: Offset?, pingMs: Int, features: [String]
    ) {
      self.session = session
      self.device = device
      self.node = node
      self.offset = offset
      self.recovered = recovered
      self.first = first
      self.last = last
      self.pingMs = pingMs
      self.features = features
    }
  }

  case attached(Attached)
  case live(Offset)
  case behind
  case reset(Reset)
  case stalled
  case draining(retryAfterMs: Int)
  case expiring(inMs: Int)
  case error(code: String, message: String, key: String?)
  case accepted(key: String, inboxID: String)
  case authenticated(expiresInMs: Int)
  case pong

  package func write(into json: inout JSONWriter) {
    json.object { json in
      switch self {
      case .attached(let attached):
        json.member("type", "attached")
        json.member("session", attached.session)
        json.member("device", attached.device)
        json.member("node", attached.node)
        json.member("offset", attached.offset.description)
        json.name("recovered")
        json.value(attached.recovered)
        json.member("first", attached.first?.description)
        json.member("last", attached.last?.description)
        json.member("pingMs", attached.pingMs)
        json.name("features")
        json.array { json in for feature in attached.features { json.value(feature) } }
      case .live(let offset):
        json.member("type", "live")
        json.member("offset", offset.description)
      case .behind:
        json.member("type", "behind")
      case .reset(let reset):
        json.member("type", "reset")
        json.member("reason", reset.reason.rawValue)
        json.member("from", reset.from.description)
        json.member("offset", reset.offset.description)
        json.member("requested", reset.requested.description)
        json.member("first", reset.first?.description)
        json.member("last", reset.last?.description)
      case .stalled:
        json.member("type", "stalled")
        json.member("reason", "store")
      case .draining(let retryAfterMs):
        json.member("type", "draining")
        json.member("retryAfterMs", retryAfterMs)
      case .expiring(let inMs):
        json.member("type", "expiring")
        json.member("inMs", inMs)
      case .error(let code, let message, let key):
        json.member("type", "error")
        json.member("code", code)
        json.member("message", message)
        if let key { json.member("key", key) }
      case .accepted(let key, let inboxID):
        json.member("type", "accepted")
        json.member("key", key)
        json.member("inboxId", inboxID)
      case .authenticated(let expiresInMs):
        json.member("type", "authenticated")
        json.member("expiresInMs", expiresInMs)
      case .pong:
        json.member("type", "pong")
      }
    }
  }

  package func encoded(allocator: ByteBufferAllocator = ByteBufferAllocator()) -> ByteBuffer {
    var json = JSONWriter(into: allocator.buffer(capacity: 128))
    write(into: &json)
    return json.buffer
  }
}

/// Continuity is broken: the device drops every entry after `from` and goes on after `offset`.
package struct Reset: Sendable, Equatable {
  package var reason: ResetReason
  package var from: Offset = .zero
  package var offset: Offset = .zero
  package var requested: Offset
  package var first: Offset?
  package var last: Offset?

  package init(_ reason: ResetReason, requested: Offset, first: Offset?, last: Offset?) {
    self.reason = reason
    self.requested = requested
    self.first = first
    self.last = last
  }
}
