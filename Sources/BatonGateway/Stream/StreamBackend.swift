import BatonRedis
import BatonSession
import NIOCore

/// A gateway's sessions as they are in Redis.
package final class StreamBackend: GatewayBackend {
  private let configuration: GatewayConfiguration
  private let store: StreamStore
  private let hub: StreamHub

  package init(_ configuration: GatewayConfiguration, _ parts: GatewayParts) throws(RedisError) {
    self.configuration = configuration
    store = try StreamStore(configuration, parts, on: parts.eventLoopGroup.next())
    hub = StreamHub(
      store, group: parts.eventLoopGroup,
      node: StreamNode(
        name: configuration.node, pingMs: Int(configuration.devices.pingInterval.nanoseconds / 1_000_000)),
      metrics: parts.metrics)
  }

  package func run() async throws {
    let store = store
    store.eventLoop.execute { store.start() }
    // Ends with the gateway.
    while !Task.isCancelled { try? await Task.sleep(for: .seconds(3600)) }
    store.eventLoop.execute { store.stop() }
  }

  package func attach(_ request: DeviceRequest, on eventLoop: any EventLoop) -> EventLoopFuture<Admission> {
    hub.attach(request, on: eventLoop)
  }

  // MARK: history

  package func history(_ request: HistoryRequest) async throws -> HistoryPage? {
    let offset: Offset
    let span: PageRequest.Span
    switch request.place {
    case .after(let place): (offset, span) = (place, .after(place.id))
    case .before(let place): (offset, span) = (place, .before(place.id))
    }
    // One entry more than is wanted tells whether there are more.
    let outcome = await store.page(
      PageRequest(session: request.session, span: span, limit: request.limit + 1, look: true))
    switch outcome {
    case .wrongType: throw Problem.wrongType(request.session)
    case .unavailable: throw Problem.storeUnavailable
    case .page(let page):
      guard let info = page.info else { throw Problem.storeUnavailable }
      guard info.exists else { return nil }
      if case .reset(let reason) = Verdict.of(
        Place(offset: offset), evidence: nil, info: info, entries: page.entries)
      {
        throw Problem.gone(Reset(reason, requested: offset, first: info.first, last: info.last?.offset))
      }
      var bytes = 0
      let others = page.entries.drop { offset != .zero && $0.id == offset.id }
      var entries = Array(
        others.prefix(request.limit).enumerated().prefix { index, entry in
          bytes += entry.payload == .tooBig ? 0 : entry.bytes
          return index == 0 || bytes <= HistoryRequest.maxPageBytes
        }.map(\.element))
      if case .before = request.place { entries.reverse() }
      return HistoryPage(
        entries: entries, first: info.first, last: info.last?.offset, more: page.more || entries.count < others.count)
    }
  }

  // MARK: writing

  package func append(_ entry: NewEntry, to session: SessionName) async throws -> EntryID {
    let bytes = entry.fields.reduce(0) { $0 + $1.name.readableBytes + $1.value.readableBytes }
    guard bytes <= configuration.maxEntryBytes else {
      throw Problem(
        .payloadTooLarge, "entry-too-large",
        "Names and values of an entry may have \(configuration.maxEntryBytes) bytes together (--max-entry-bytes); this has \(bytes)."
      )
    }
    let key = store.key(session)
    let replies = try await send(
      [
        .multi,
        .xadd(
          key, trim: .about(Int(clamping: configuration.retention.entries)),
          fields: entry.fields.map { (.bytes($0.name), .bytes($0.value)) }),
        .pexpire(key, milliseconds: Int64(clamping: configuration.retention.milliseconds)), .exec,
      ], session)
    let id = try decodeExec(replies)[0].decodedID()
    return EntryID(id.milliseconds, id.sequence)
  }

  package func delete(_ session: SessionName) async throws {
    let key = store.key(session)
    _ = try await send([.unlink([key, key + ":producers", key + ":inbox", key + ":keys"])], session)
  }

  package func response(_ response: String, in session: SessionName) async throws -> ResponseRecord? { nil }

  /// - Throws: a `Problem` that says what is the matter with the store or the session.
  private func send(_ commands: [RedisCommand], _ session: SessionName) async throws -> [RESPReply] {
    do {
      let replies = try await store.send(commands)
      for reply in replies {
        try reply.accepted()
        if let inner = reply.elements { for one in inner { try one.accepted() } }
      }
      return replies
    } catch let error as RedisError {
      if error.code == "WRONGTYPE" { throw Problem.wrongType(session) }
      if error.code == "OOM" || error.code == "EXECABORT" {
        throw Problem(
          .serviceUnavailable, "store-full", "Redis accepts no writes now (\(error.description)); nothing was appended."
        ).with(header: "Retry-After", "5")
      }
      throw Problem.storeUnavailable
    }
  }
}
