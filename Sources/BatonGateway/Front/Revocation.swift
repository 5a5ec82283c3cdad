import BatonProtocol
import BatonSession
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore

extension Routes {
  /// Takes tokens back before their time, on every node (PROTOCOL 3).
  func revoke(_ call: Call) async throws -> Response {
    let request = call.request
    try origins.check(request.headers[values: .origin])
    if request.method == .options { return preflight(request, allow: "POST, OPTIONS") }
    try method(request, .post)
    guard let identity = try await identity(call, Query(Target(request.head.path ?? "/").query)), let authenticator
    else {
      throw Problem(.forbidden, "nothing-to-revoke", "This gateway asks nobody for a token.")
    }
    guard identity.scopes.contains(.revoke) else {
      throw Problem(.forbidden, "not-allowed", "The token's scope does not hold revoke.").refusing(identity)
    }
    guard MediaType.isContent(.json, request.headers[.contentType]) else {
      throw Problem(.unsupportedMediaType, "unsupported-media-type", "Send JSON with Content-Type: application/json.")
    }
    guard let members = JSONValue(try await body(call), namesOnce: true)?.members,
      var order = Revocations.Order(members, now: Date().timeIntervalSince1970)
    else {
      throw Problem.badRequest(
        "bad-revocation",
        "The body is an object with one of subject, token (a jti) and session, of 1 to \(Revocations.longestName) bytes, and "
          + "perhaps until: seconds since 1970, in the future.")
    }
    order.tenant = identity.tenant
    guard let session = SessionName(Revocations.session),
      let data = try? String(decoding: JSONEncoder().encode(order), as: UTF8.self)
    else { throw Problem.unexpectedAnswer }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("event", "revoke")
      json.member("data", data)
    }
    _ = try await store.append(NewEntry(json: json.buffer, limit: limits.maxEntryBytes), to: session, scope: "")
    authenticator.revocations.take(order)
    front.judgeAgain()
    let taken = order.what
    audit?.acted(
      "revoked", AuditLog.Facts(address: call.address, identity),
      [("what", taken.kind), ("name", taken.name), ("until", "\(Int(order.until))")])
    var response = Response(status: .noContent)
    response.allow(request.headers[.origin])
    return response
  }
}

extension Revocations.Order {
  /// Nil for what is none.
  fileprivate init?(_ members: [String: JSONValue], now: Double) {
    var members = members
    var until: Double?
    if let given = members.removeValue(forKey: "until") {
      guard case .number(let text) = given, let time = Double(text), time > now, time < 1e12 else { return nil }
      until = time
    }
    guard members.count == 1, let (name, value) = members.first, let text = value.text, !text.isEmpty,
      text.utf8.count <= Revocations.longestName
    else { return nil }
    switch name {
    case "subject": self.init(subject: text, now: now, until: until)
    case "token": self.init(token: text, now: now, until: until)
    case "session": self.init(session: text, now: now, until: until)
    default: return nil
    }
  }
}
