#if os(Linux)
  import Foundation

  /// One workload on one contender.
  struct BenchRun {
    let workload: Workload
    let name: ContenderName
    /// The program that serves as `baton`.
    let gateway: URL
    /// How long a rate is measured.
    let seconds: Double
    let progress: (String) -> Void

    /// - Throws: `BenchFailure` where the work could not be done.
    func measure() async throws -> Measurement {
      let contender = try await name.start(workload, gateway: gateway)
      do {
        let result = try await measure(contender)
        await contender.stop()
        return result
      } catch {
        await contender.stop()
        throw error
      }
    }

    private func measure(_ contender: any Contender) async throws -> Measurement {
      var result = Measurement(workload: workload.name, contender: name.rawValue, devices: workload.devices)
      if workload.missed > 0 {
        progress("writing \(workload.sessions * workload.missed) entries")
        try await contender.fill(workload)
      }
      let swarm = Swarm(port: contender.port)
      do {
        switch workload.kind {
        case .live: try await live(contender, swarm, &result)
        case .storm: try await storm(contender, swarm, &result)
        case .attach: try await attachAll(contender, swarm, &result)
        case .idle: try await idle(contender, swarm, &result)
        case .memory: try await memory(contender, swarm, &result)
        }
      } catch {
        _ = await swarm.stop()
        throw error
      }
      return result
    }

    private func devices(_ contender: any Contender) -> [Swarm.Device] {
      let device = { Swarm.Device(session: $0, request: contender.request($0, workload)) }
      // Devices of one session come apart, as they do in life.
      return (0..<workload.devicesPerSession).flatMap { _ in (0..<workload.sessions).map(device) }
    }

    @discardableResult
    private func attach(
      _ devices: [Swarm.Device], _ contender: any Contender, _ swarm: Swarm
    ) async throws -> Double {
      let before = swarm.now
      let start = monotonicNanoseconds()
      swarm.attach(devices)
      try await wait(for: "devices to attach", swarm) { tally in
        (contender.tellsLive ? tally.live - before.live : tally.upgraded - before.upgraded) >= devices.count
      }
      return Double(monotonicNanoseconds() - start) / 1e9
    }

    private func wait(for what: String, _ swarm: Swarm, _ condition: (Swarm.Tally) -> Bool) async throws {
      let deadline = ContinuousClock.now + .seconds(120)
      while !condition(swarm.now) {
        let tally = swarm.now
        guard ContinuousClock.now < deadline, tally.refused == 0, tally.closed == 0 else {
          throw BenchFailure(
            """
            \(workload.name) on \(name.rawValue): waited for \(what); \(tally.connected) connected, \
            \(tally.upgraded) upgraded, \(tally.live) live, \(tally.refused) refused, \(tally.closed) closed
            """)
        }
        try await Task.sleep(for: .milliseconds(2))
      }
    }

    private struct Sample {
      var time = monotonicNanoseconds()
      var server: UInt64
      var store: UInt64
      var tally: Swarm.Tally

      init(_ contender: any Contender, _ swarm: Swarm) {
        server = contender.threadNanoseconds + ProcessUsage.of(contender.servers).nanoseconds
        store = ProcessUsage.of(contender.stores).nanoseconds
        tally = swarm.now
      }
    }

    private func account(
      _ from: Sample, _ to: Sample, _ contender: any Contender, _ result: inout Measurement, for attaches: Int? = nil
    ) {
      let deliveries = attaches ?? to.tally.entries - from.tally.entries
      let seconds = Double(to.time - from.time) / 1e9
      result.deliveries = deliveries
      result.seconds = seconds
      guard deliveries > 0 else { return }
      result.server = (Double(to.server) - Double(from.server)) / 1e3 / Double(deliveries)
      if !contender.stores.isEmpty { result.redis = (Double(to.store) - Double(from.store)) / 1e3 / Double(deliveries) }
      result.generator = Double(to.tally.nanoseconds - from.tally.nanoseconds) / 1e3 / Double(deliveries)
      result.rate = Double(deliveries) / seconds
    }

    // MARK: workloads

    private func live(_ contender: any Contender, _ swarm: Swarm, _ result: inout Measurement) async throws {
      result.attached = try await attach(devices(contender), contender, swarm)
      if workload.idleSessions > 0 {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        // Both sides need a descriptor each.
        let most = max(0, min(workload.idleSessions, Int(clamping: limit.rlim_cur) - workload.devices - 500))
        if most < workload.idleSessions { progress("only \(most) idle sessions: ulimit -n is \(limit.rlim_cur)") }
        let others = workload.sessions..<workload.sessions + most
        try await attach(
          others.map { Swarm.Device(session: $0, request: contender.request($0, workload)) }, contender, swarm)
      }
      let load = Load(workload, first: 1, try contender.publisher())
      try await Task.sleep(for: .seconds(1))
      _ = swarm.takeLatencies()
      let before = Sample(contender, swarm)
      progress("measuring for \(Int(seconds)) s")
      try await Task.sleep(for: .seconds(seconds))
      let after = Sample(contender, swarm)
      let latencies = swarm.takeLatencies()
      account(before, after, contender, &result)
      result.p50 = Double(latencies.valueAtPercentile(50)) / 1e3
      result.p90 = Double(latencies.valueAtPercentile(90)) / 1e3
      result.p99 = Double(latencies.valueAtPercentile(99)) / 1e3
      result.p999 = Double(latencies.valueAtPercentile(99.9)) / 1e3
      result.max = Double(latencies.max) / 1e3
      let (numbers, failure) = await load.stop()
      if let failure { throw BenchFailure("publishing to \(name.rawValue) failed: \(failure)") }
      let expected = numbers.reduce(0) { $0 + Int($1 - 1) } * workload.devicesPerSession
      await settle(swarm, expected)
      result.faults = await faults(swarm, numbers)
    }

    private func storm(_ contender: any Contender, _ swarm: Swarm, _ result: inout Measurement) async throws {
      let before = Sample(contender, swarm)
      swarm.attach(devices(contender))
      try await wait(for: "missed entries", swarm) { $0.entries >= workload.devices * workload.missed }
      // A thread of our own tells what it needed when it is done.
      if contender.servers.isEmpty { try await wait(for: "the end", swarm) { _ in contender.threadNanoseconds > 0 } }
      account(before, Sample(contender, swarm), contender, &result)
      result.faults = await faults(
        swarm, Array(repeating: UInt64(workload.missed) + 1, count: workload.sessions))
    }

    private func attachAll(_ contender: any Contender, _ swarm: Swarm, _ result: inout Measurement) async throws {
      let before = Sample(contender, swarm)
      result.attached = try await attach(devices(contender), contender, swarm)
      account(before, Sample(contender, swarm), contender, &result, for: workload.devices)
      _ = await swarm.stop()
    }

    private func idle(_ contender: any Contender, _ swarm: Swarm, _ result: inout Measurement) async throws {
      let all = devices(contender)
      // What a server keeps for itself is there once it has had devices.
      let first = Array(all.prefix(all.count / 10))
      try await attach(first, contender, swarm)
      let before = ProcessUsage.of(contender.servers).resident
      let rest = Array(all.dropFirst(first.count))
      let time = try await attach(rest, contender, swarm)
      result.attached = time * Double(all.count) / Double(rest.count)
      result.deviceBytes = Double(ProcessUsage.of(contender.servers).resident - before) / Double(rest.count) / 1024
      // Until the attaching is over for the server too.
      try await Task.sleep(for: .seconds(2))
      progress("doing nothing for \(Int(seconds)) s")
      let from = Sample(contender, swarm)
      try await Task.sleep(for: .seconds(seconds))
      let to = Sample(contender, swarm)
      result.idle =
        (Double(to.server) - Double(from.server) + Double(to.store) - Double(from.store))
        / Double(to.time - from.time) * 100
      _ = await swarm.stop()
    }

    private func memory(_ contender: any Contender, _ swarm: Swarm, _ result: inout Measurement) async throws {
      try await attach(devices(contender), contender, swarm)
      let before = ProcessUsage.of(contender.servers).resident
      let load = Load(workload, first: 1, try contender.publisher())
      try await wait(for: "entries", swarm) { $0.entries >= workload.sessions * 128 }
      let entries = swarm.now.entries
      result.entryBytes = Double(ProcessUsage.of(contender.servers).resident - before) / Double(entries)
      let (numbers, failure) = await load.stop()
      if let failure { throw BenchFailure("publishing to \(name.rawValue) failed: \(failure)") }
      await settle(swarm, numbers.reduce(0) { $0 + Int($1 - 1) })
      result.faults = await faults(swarm, numbers)
    }

    // MARK: order and completeness

    private func settle(_ swarm: Swarm, _ entries: Int) async {
      let deadline = ContinuousClock.now + .seconds(20)
      while swarm.now.entries < entries, ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(5)) }
    }

    private func faults(_ swarm: Swarm, _ numbers: [UInt64]) async -> [String] {
      let nexts = await swarm.stop()
      let tally = swarm.now
      var faults: [String] = []
      if tally.doubled > 0 { faults.append("\(tally.doubled) entries came twice or back") }
      if tally.missing > 0 { faults.append("\(tally.missing) entries are missing") }
      let late = nexts.filter { $0.session < numbers.count && $0.next < numbers[$0.session] }
      if !late.isEmpty { faults.append("\(late.count) devices have not had everything") }
      if tally.closed > 0 { faults.append("\(tally.closed) devices were cut off") }
      return faults
    }
  }
#endif
