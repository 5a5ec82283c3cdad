import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore

extension GatewayBackend {
  /// - Throws: `RedisError` where the certificates that the URL names can't be read.
  package init(_ configuration: GatewayConfiguration, _ parts: GatewayParts) throws(RedisError) {
    let reports = StoreReports(metrics: parts.metrics, state: parts.state, logger: parts.logger)
    let settings = configuration.store
    let store = try StoreConfiguration.open(
      settings, configuration.redis, on: parts.storeLoop, observe: reports.take)
    let index = configuration.maxSessionsPerTenant.map {
      TenantIndex(
        store, keyPrefix: settings.keyPrefix, limit: $0, retention: settings.retention.milliseconds)
    }
    let hub = Hub(
      store, index: index, group: parts.eventLoopGroup,
      node: NodeDescription(
        name: configuration.node, pingMs: Int(configuration.devices.pingInterval.nanoseconds / 1_000_000)),
      limits: WindowLimits(windowBytes: configuration.windowBytes, nodeWindowBytes: configuration.nodeWindowBytes),
      metrics: parts.metrics)
    let webhooks = settings.webhooks.map {
      StoredWebhooks(store: store, notices: $0, keyPrefix: settings.keyPrefix)
    }
    let sessions = StoredSessions(store: store, keyPrefix: settings.keyPrefix, index: index)
    self.init(
      devices: hub, sessions: sessions, rescue: settings.rescue, webhooks: webhooks,
      register: RelayRegister(store, keyPrefix: settings.keyPrefix)
    ) {
      store.eventLoop.execute { store.start() }
      // Ends with the gateway.
      while !Task.isCancelled { try? await Task.sleep(for: .seconds(3600)) }
      store.eventLoop.execute { store.stop() }
    }
  }
}

extension GatewayConfiguration {
  package var store: StoreConfiguration {
    var settings = StoreConfiguration()
    settings.node = node
    settings.keyPrefix = keyPrefix
    settings.wakeup = wakeup
    settings.maxEntryBytes = maxEntryBytes
    settings.historyBytes = catchUpBytes
    settings.sweep = sweep
    settings.pollInterval = pollInterval
    settings.retention = retention
    if webhooks != nil { settings.webhooks = WebhookNotices() }
    settings.countsSessions = maxSessionsPerTenant != nil
    return settings
  }
}

/// Control requests, answered from Redis.
struct StoredSessions: SessionOperations {
  let store: any SessionStoring
  let keyPrefix: String
  /// Nil where tenants may have as many sessions as they like.
  let index: TenantIndex?

  // MARK: history

  func history(_ request: HistoryRequest) async throws -> HistoryPage? {
    let offset: Offset
    let span: PageRequest.Span
    switch request.place {
    case .after(let place): (offset, span) = (place, .after(place.id))
    case .before(let place): (offset, span) = (place, .before(place.id))
    }
    // One entry more than is wanted tells whether there are more.
    let outcome = await store.read(
      PageRequest(session: request.session, span: span, limit: request.limit + 1, look: true))
    switch outcome {
    case .wrongType: throw Problem.wrongType(request.session)
    case .unavailable: throw Problem.storeUnavailable
    case .refused(let reason): throw Problem.refusedByStore(reason)
    case .page(let page):
      guard let info = page.info else { throw Problem.storeUnavailable }
      guard info.exists else { return nil }
      if case .reset(let reason) = Verdict.of(
        Place(offset: offset), evidence: nil, info: info, entries: page.entries)
      {
        throw Problem.gone(Reset(reason, requested: offset, first: info.first, last: info.last?.offset))
      }
      let others = page.entries.drop { offset != .zero && $0.id == offset.id }
      let (read, more, charges) = await rest(of: request, Array(others), page)
      var bytes = 0
      var entries = Array(
        read.prefix(request.limit).enumerated().prefix { index, entry in
          bytes += HistoryPage.bytes(entry)
          return index == 0 || bytes <= HistoryRequest.maxPageBytes
        }.map(\.element))
      if case .before = request.place { entries.reverse() }
      var whole = HistoryPage(
        entries: entries, first: info.first, last: info.last?.offset, more: more || entries.count < read.count)
      defer { withExtendedLifetime(charges) {} }
      whole.charge = try await makeRoom(whole.room)
      return whole
    }
  }

  func entries(
    of session: SessionName, before id: EntryID?, limit: Int
  ) async throws -> (entries: [Entry], more: Bool) {
    switch await store.read(PageRequest(session: session, span: .before(id), limit: limit, look: false)) {
    case .wrongType: throw Problem.wrongType(session)
    case .unavailable: throw Problem.storeUnavailable
    case .refused(let reason): throw Problem.refusedByStore(reason)
    case .page(let page): return (page.entries.filter { $0.id != id }, page.more)
    }
  }

  /// Room for a page that is to be written as JSON, before it is: what many are sent at a time is in the budget.
  /// - Throws: `storeUnavailable` where there is none for 5 s, because those who are sent pages don't read them.
  private func makeRoom(_ bytes: Int) async throws -> MemoryCharge {
    let began = ContinuousClock.now
    var isShort = false
    defer { if isShort { store.budget.readerWaits(false) } }
    while true {
      if let charge = store.budget.reserve(bytes) { return charge }
      let waited = ContinuousClock.now - began
      if waited >= .seconds(5) { throw Problem.storeUnavailable }
      if waited >= .seconds(1), !isShort {
        isShort = true
        store.budget.readerWaits(true)
      }
      // Who is cancelled meanwhile has gone: nothing failed.
      do { try await Task.sleep(for: .milliseconds(20)) } catch { throw Problem.storeUnavailable }
    }
  }

  /// Reads on until there are as many entries, or bytes, as the page takes; less where they can't be read now.
  private func rest(
    of request: HistoryRequest, _ known: [Entry], _ first: Page
  ) async -> (entries: [Entry], more: Bool, charges: [MemoryCharge]) {
    var (entries, more) = (known, first.more)
    var charges = [first.segment.charge].compactMap { $0 }
    var bytes = entries.reduce(0) { $0 + HistoryPage.bytes($1) }
    while more, entries.count <= request.limit, bytes <= HistoryRequest.maxPageBytes, let last = entries.last {
      let span: PageRequest.Span =
        switch request.place {
        case .after: .after(last.id)
        case .before: .before(last.id)
        }
      let next = PageRequest(
        session: request.session, span: span, limit: request.limit + 1 - entries.count, look: false)
      // The page ends where what follows it can't be told to follow it.
      guard case .page(let page) = await store.read(next), page.entries.first?.offset.matches(last.offset) == true
      else {
        break
      }
      let fresh = page.entries.dropFirst()
      if fresh.isEmpty, page.more { break }
      entries += fresh
      bytes += fresh.reduce(0) { $0 + HistoryPage.bytes($1) }
      more = page.more
      if let charge = page.segment.charge { charges.append(charge) }
    }
    return (entries, more, charges)
  }

  // MARK: writing

  func append(
    _ entry: NewEntry, to session: SessionName, scope: String
  ) async throws -> (id: EntryID, again: Bool) {
    let (id, _, again) = try await put(EntryPut(.stream, entry.fields, scope: scope), session)
    guard let id else { throw Problem.unexpectedAnswer }
    return (id, again)
  }

  func submit(_ put: EntryPut, to session: SessionName) async throws -> (inboxID: EntryID, again: Bool) {
    let (_, inboxID, again) = try await self.put(put, session)
    guard let inboxID else { throw Problem.unexpectedAnswer }
    return (inboxID, again)
  }

  private func put(
    _ put: EntryPut, _ session: SessionName
  ) async throws -> (id: EntryID?, inboxID: EntryID?, again: Bool) {
    switch PutReply(try await run(.put(put), session)) {
    case .put(let id, let inboxID, let again): return (id, inboxID, again)
    case .keyConflict:
      throw Problem(
        .conflict, "key-conflict", "This Idempotency-Key came with another body before; use a new key for a new entry.")
    case .wrongType: throw Problem.wrongType(session)
    default: throw Problem.unexpectedAnswer
    }
  }

  func append(_ call: AppendCall, to session: SessionName) async throws -> WriteReply {
    guard let reply = WriteReply(try await run(call, session)) else { throw Problem.unexpectedAnswer }
    return reply
  }

  func delete(_ session: SessionName) async throws {
    let parts = try await run(.delete, session)
    if parts.first == "wrong_type" { throw Problem.wrongType(session) }
    await index?.deleted(session)
  }

  func admit(_ session: SessionName) async throws {
    guard let index else { return }
    do {
      if try await !index.admit(session) { throw Problem.tooManySessionsOfTenant.about(session) }
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }

  func sessions(like prefix: String, from place: KeyPlace?) async throws -> SessionStep {
    do {
      return try await store.sessions(like: prefix, from: place)
    } catch let error as RedisError {
      throw Problem(error, nil)
    }
  }

  func response(_ response: String, in session: SessionName) async throws -> ResponseRecord? {
    do {
      return try await store.record(of: response, in: session)
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }

  func responses(in session: SessionName) async throws -> ResponseList {
    do {
      return try await store.responses(in: session)
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }

  func look(at response: String, in session: SessionName, after place: EntryID) async throws -> InboxLook {
    do {
      return try await store.look(at: response, in: session, after: place)
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }

  func upstreamID(of response: String, in session: SessionName) async throws -> String? {
    do {
      return try await store.upstreamID(of: response, in: session, keyPrefix: keyPrefix)
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }

  func line(_ step: QuestionLine.Step, in session: SessionName) async throws -> QuestionLine? {
    do {
      return try await store.line(step, in: session, keyPrefix: keyPrefix)
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }

  func watchLeases(of session: SessionName) {
    store.eventLoop.execute { [store] in store.watchLeases(of: session) }
  }

  private func run(_ call: AppendCall, _ session: SessionName) async throws -> [String] {
    if call.isWrite { try await admit(session) }
    do {
      return try await store.run(call, session)
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }
}

extension AppendCall {
  /// It may make a session, or has it live on.
  fileprivate var isWrite: Bool {
    switch self {
    case .open, .put: true
    case .append(let write): !write.items.isEmpty
    case .expire, .delete: false
    }
  }
}
