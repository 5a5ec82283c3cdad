#if os(Linux)
  import CBatonEpoll
  import Foundation
  import Glibc
  import Histogram
  import Synchronization

  /// Devices on one thread and one epoll: they attach, check the order of what they are sent, and take the time.
  final class Swarm: @unchecked Sendable {
    struct Device: Sendable {
      var session: Int
      /// The request, up to its empty line.
      var request: [UInt8]
      /// The entry that has to come first.
      var first: UInt64 = 1
    }

    struct Tally: Sendable {
      var connected = 0
      /// 101 was answered.
      var upgraded = 0
      /// `live` was said.
      var live = 0
      var entries = 0
      var bytes = 0
      var closed = 0
      var refused = 0
      /// Entries that came twice, or came back.
      var doubled = 0
      /// Entries that never came, as the next one tells.
      var missing = 0
      var nanoseconds: UInt64 = 0
    }

    private struct State {
      var socket: RawSocket
      var scanner = FrameScanner()
      var session: Int
      var next: UInt64
      var isConnected = false
      var isUpgraded = false
      var isOpen = true
      var answer: [UInt8] = []
    }

    private let port: Int
    private let poller: Int32
    private let shared = Mutex((tally: Tally(), waiting: [Device](), isStopped: false))
    private let latencies = Mutex(Swarm.makeHistogram())
    private let ended = DispatchSemaphore(value: 0)
    // Of the swarm's own thread.
    private var states: [State] = []
    private var requests: [[UInt8]] = []
    private var tally = Tally()
    private var pending = 0

    /// Connections that are on their way at the same time.
    private static let maxPending = 256

    private static func makeHistogram() -> Histogram<UInt32> {
      Histogram<UInt32>(highestTrackableValue: 60_000_000, numberOfSignificantValueDigits: .three)
    }

    init(port: Int) {
      self.port = port
      poller = epoll_create1(Int32(EPOLL_CLOEXEC))
      let thread = Thread { [self] in run() }
      thread.name = "swarm"
      thread.start()
    }

    /// They attach as fast as they are let in.
    func attach(_ devices: [Device]) { shared.withLock { $0.waiting += devices.reversed() } }

    var now: Tally { shared.withLock { $0.tally } }

    /// Microseconds from the append to its arrival, since the last time this was asked.
    func takeLatencies() -> Histogram<UInt32> {
      latencies.withLock { histogram in
        defer { histogram.reset() }
        return histogram
      }
    }

    /// Closes all connections.
    ///
    /// - Returns: the next entry that each device waits for.
    func stop() async -> [(session: Int, next: UInt64)] {
      shared.withLock { $0.isStopped = true }
      while ended.wait(timeout: .now()) == .timedOut { try? await Task.sleep(for: .milliseconds(5)) }
      return states.map { ($0.session, $0.next) }
    }

    // MARK: the thread

    private func run() {
      var events = [epoll_event](repeating: epoll_event(), count: 1024)
      let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
      defer { buffer.deallocate() }
      while true {
        let isStopped = shared.withLock { state in
          while pending < Swarm.maxPending, let device = state.waiting.popLast() { connect(device) }
          return state.isStopped
        }
        if isStopped { break }
        let count = epoll_wait(poller, &events, Int32(events.count), 5)
        for index in 0..<max(0, Int(count)) {
          let event = events[index]
          ready(Int(event.data.u32), event.events, buffer)
        }
        report()
      }
      for state in states where state.isOpen { state.socket.close() }
      _ = Glibc.close(poller)
      report()
      ended.signal()
    }

    private func report() {
      tally.nanoseconds = threadNanoseconds()
      let tally = tally
      shared.withLock { $0.tally = tally }
    }

    private func connect(_ device: Device) {
      guard let socket = try? RawSocket.connect(port: port, blocks: false, number: states.count) else {
        tally.refused += 1
        return
      }
      pending += 1
      var event = epoll_event()
      event.events = EPOLLIN.rawValue | EPOLLOUT.rawValue
      event.data.u32 = UInt32(states.count)
      states.append(State(socket: socket, session: device.session, next: device.first))
      requests.append(device.request)
      epoll_ctl(poller, EPOLL_CTL_ADD, socket.descriptor, &event)
    }

    private func ready(_ index: Int, _ events: UInt32, _ buffer: UnsafeMutableRawBufferPointer) {
      if !states[index].isConnected, events & EPOLLOUT.rawValue != 0 {
        states[index].isConnected = true
        tally.connected += 1
        states[index].socket.send(requests[index])
        requests[index] = []
        var event = epoll_event()
        event.events = EPOLLIN.rawValue
        event.data.u32 = UInt32(index)
        epoll_ctl(poller, EPOLL_CTL_MOD, states[index].socket.descriptor, &event)
      }
      guard events & ~EPOLLOUT.rawValue != 0 else { return }
      let count = recv(states[index].socket.descriptor, buffer.baseAddress, buffer.count, 0)
      if count < 0, errno == EAGAIN { return }
      guard count > 0 else { return close(index) }
      tally.bytes += count
      let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
      if states[index].isUpgraded { take(index, bytes) } else { upgrade(index, bytes) }
    }

    private func close(_ index: Int) {
      guard states[index].isOpen else { return }
      states[index].isOpen = false
      if !states[index].isUpgraded { pending -= 1 }
      tally.closed += 1
      states[index].socket.close()
    }

    private func upgrade(_ index: Int, _ bytes: UnsafeRawBufferPointer) {
      states[index].answer.append(contentsOf: bytes)
      let answer = states[index].answer
      guard let end = (3..<max(3, answer.count)).first(where: { answer[$0 - 3...$0].elementsEqual("\r\n\r\n".utf8) })
      else { return }
      guard answer.starts(with: "HTTP/1.1 101".utf8) else {
        tally.refused += 1
        return close(index)
      }
      states[index].isUpgraded = true
      states[index].answer = []
      tally.upgraded += 1
      pending -= 1
      answer[(end + 1)...].withUnsafeBytes { take(index, $0) }
    }

    private func take(_ index: Int, _ bytes: UnsafeRawBufferPointer) {
      let now = monotonicNanoseconds()
      var next = states[index].next
      var (entries, doubled, missing, live) = (0, 0, 0, 0)
      var pong: [UInt8]?
      latencies.withLock { histogram in
        states[index].scanner.scan(bytes) { event in
          switch event {
          case .mark(let number, let appended):
            entries += 1
            if number < next { doubled += 1 } else { missing += Int(number - next) }
            next = number + 1
            if appended > 0 { histogram.record(now > appended ? (now - appended) / 1000 : 0) }
          case .type(.live): live += 1
          // A client's frame is masked (RFC 6455 section 5.1); the mask may be zero.
          case .ping(let payload):
            pong = [0x8A, 0x80 | UInt8(truncatingIfNeeded: payload.count), 0, 0, 0, 0] + payload
          case .type(.other), .close: break
          }
        }
      }
      states[index].next = next
      tally.entries += entries
      tally.doubled += doubled
      tally.missing += missing
      tally.live += live
      if let pong { states[index].socket.send(pong) }
    }
  }
#endif
