import BatonGateway
import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore

/// What the demo page asks `baton dev` (see the top of Web/demo/demo.js), and the page itself.
struct DevRoutes: Sendable {
  let fleet: Fleet
  let model: Model
  let redis: PrivateRedis
  let commands: RedisConnection
  /// Whose pages may ask.
  let origins: OriginRule
  let host: String
  private let web = WebFiles()

  init(
    fleet: Fleet, model: Model, redis: PrivateRedis, commands: RedisConnection, origins: OriginRule, host: String
  ) {
    self.fleet = fleet
    self.model = model
    self.redis = redis
    self.commands = commands
    self.origins = origins
    self.host = host
  }

  @Sendable func respond(to request: Request, _ writer: consuming ResponseWriter, _ channel: any Channel) async throws {
    var response: Response
    do {
      response = try await route(request)
    } catch let problem as Problem {
      response = Response(problem)
    } catch let failure as DevFailure {
      response = Response(Problem(.serviceUnavailable, "dev", failure.description))
    } catch {
      response = Response(Problem(.internalServerError, "internal", "baton dev failed: \(error)"))
    }
    if request.method == .head { response.body = ResponseBody() }
    try await writer.write(response: response.head, body: response.body)
  }

  private func route(_ request: Request) async throws -> Response {
    let path = request.uri.path.split(separator: "/").map(String.init)
    try origins.check(request.headers[values: .origin])
    switch (request.method, path) {
    case (.get, []), (.head, []):
      var response = Response(status: .seeOther)
      response.headers[.location] = "demo"  // the page may be below a path of a proxy's
      response.headers[.contentLength] = "0"
      return response
    case (.get, ["dev", "state"]):
      return .json(try await state(Query(request.uri.query.map { $0[...] }).one("session")), to: request)
    case (.post, ["dev", "prompt"]): return try await prompt(request)
    case (.post, let path) where path.count == 4 && path[0] == "dev" && path[1] == "gateways":
      try checkJSON(request)
      let isKnown =
        switch path[3] {
        case "kill": await fleet.kill(path[2])
        case "restart": try await fleet.restart(path[2])
        default: throw Problem.noSuchPath
        }
      guard isKnown else { throw Problem(.notFound, "no-such-gateway", "No gateway has the name \(path[2]).") }
      return Response(status: .noContent)
    case (.get, ["healthz"]): return .text("ok\n")
    case (.get, _), (.head, _): return try web.response(to: request, path: request.uri.path[...])
    default: throw Problem.methodNotAllowed("GET")
    }
  }

  /// Pages of other origins can't send it without being asked first.
  private func checkJSON(_ request: Request) throws {
    guard request.headers[.contentType]?.hasPrefix("application/json") == true else {
      throw Problem(.unsupportedMediaType, "unsupported-media-type", "Post with Content-Type: application/json.")
    }
  }

  private func prompt(_ request: Request) async throws -> Response {
    struct Prompt: Decodable {
      var session: String
      var prompt: String
    }
    try checkJSON(request)
    let body = try await request.body.collect(upTo: 1 << 20)
    guard let asked = try? JSONDecoder().decode(Prompt.self, from: Data(body.readableBytesView)) else {
      throw Problem.badRequest("bad-prompt", "Post {\"session\":\"…\",\"prompt\":\"…\"}.")
    }
    let session = try SessionName(checking: asked.session)
    guard !asked.prompt.isEmpty, asked.prompt.utf8.count <= 32 << 10 else {
      throw Problem.badRequest("bad-prompt", "Ask something, in at most 32 KiB.")
    }
    try await model.check()
    let fields: [(RedisCommand.Argument, RedisCommand.Argument)] = [
      ("event", "input"), ("data", .string(asked.prompt)),
    ]
    _ = try await commands.send(
      .xadd(session.key(prefix: "baton:"), trim: .about(100_000), fields: fields), timeout: .seconds(5)
    ).decodedID()
    let response = try await model.answer(asked.prompt, in: asked.session)
    var json = JSONWriter(into: ByteBuffer())
    json.object { $0.member("response", response) }
    return .json(json.buffer, status: .accepted, to: request)
  }

  private func state(_ session: String?) async throws -> ByteBuffer {
    let gateways = await fleet.gateways
    let model = await model.name()
    var producer: (response: String, n: UInt64, state: String)?
    if let session = session.flatMap({ SessionName($0) }) { producer = try await newestResponse(of: session) }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("gateways")
      json.array { json in
        for gateway in gateways {
          json.object { json in
            json.member("name", gateway.name)
            json.member("url", "http://\(host):\(gateway.port ?? 0)")
            json.name("alive")
            json.value(gateway.isAlive && gateway.port != nil)
          }
        }
      }
      json.member("model", try? model?.get())
      if case .failure(let failure)? = model { json.member("modelTrouble", failure.description) }
      json.name("producer")
      if let producer {
        json.object { json in
          json.member("response", producer.response)
          json.member("n", producer.n)
          json.member("state", producer.state)
        }
      } else {
        json.null()
      }
      json.member("redis", redis.url)
    }
    return json.buffer
  }

  /// The session's newest response as Redis has it.
  private func newestResponse(of session: SessionName) async throws -> (String, UInt64, String)? {
    let reply = try await commands.send(
      .xrevrange(session.key(prefix: "baton:"), count: 100), timeout: .seconds(5)
    ).decodedEntries("XREVRANGE")
    var reader = EntryReader(maxEntryBytes: 1 << 20)
    var found: (response: String, n: UInt64, state: String)?
    for raw in reply.entries {
      let fields = raw.fields.map { Entry.Field(name: $0.name, value: $0.value) }
      let entry = reader.entry(EntryID(raw.id.milliseconds, raw.id.sequence), fields)
      guard let response = entry.response else { continue }
      if found == nil { found = (response, 0, entry.endsResponse ? entry.event : "open") }
      if found?.response == response, let n = entry.n {
        found?.n = n
        break
      }
    }
    return found
  }
}
