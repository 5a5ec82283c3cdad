#if os(Linux)
  import Foundation
  import Synchronization

  /// Takes the entries of a load to where they are published.
  protocol Publisher: AnyObject {
    /// One entry; nothing leaves before `flush`.
    func publish(_ session: Int, _ number: UInt64, _ data: [UInt8])
    func flush() throws
    func close()
  }

  /// Entries at a rate, spread evenly over time and sessions, from a thread of its own.
  final class Load: @unchecked Sendable {
    private let workload: Workload
    private let publisher: any Publisher
    private let progress = Mutex((numbers: [UInt64](), isStopped: false, failure: String?.none))
    private let ended = DispatchSemaphore(value: 0)

    /// - Parameter first: the number of each session's next entry.
    init(_ workload: Workload, first: UInt64, _ publisher: any Publisher) {
      (self.workload, self.publisher) = (workload, publisher)
      progress.withLock { $0.numbers = [UInt64](repeating: first, count: workload.sessions) }
      let thread = Thread { [self] in run() }
      thread.name = "load"
      thread.start()
    }

    /// - Returns: the next number of each session, and what failed.
    func stop() async -> (numbers: [UInt64], failure: String?) {
      progress.withLock { $0.isStopped = true }
      while ended.wait(timeout: .now()) == .timedOut { try? await Task.sleep(for: .milliseconds(2)) }
      return progress.withLock { ($0.numbers, $0.failure) }
    }

    private func run() {
      let perSecond = workload.rate * Double(workload.sessions)
      let start = monotonicNanoseconds()
      var numbers = progress.withLock { $0.numbers }
      var published = 0
      while true {
        let now = monotonicNanoseconds()
        let due = Int(Double(now - start) / 1e9 * perSecond)
        while published < due {
          let session = published % workload.sessions
          publisher.publish(session, numbers[session], Load.data(numbers[session], at: now, bytes: workload.entryBytes))
          numbers[session] += 1
          published += 1
        }
        do {
          try publisher.flush()
        } catch {
          progress.withLock { $0.failure = "\(error)" }
        }
        let isOver = progress.withLock { state in
          state.numbers = numbers
          return state.isStopped || state.failure != nil
        }
        if isOver { break }
        usleep(1000)
      }
      ended.signal()
    }

    /// The data of an entry: its mark, and letters up to its size.
    static func data(_ number: UInt64, at nanoseconds: UInt64, bytes: Int) -> [UInt8] {
      var data = Array("@\(number):\(nanoseconds);".utf8)
      while data.count < bytes { data.append(UInt8(ascii: "x")) }
      return data
    }
  }

  /// Writes to a server that answers, and reads what it answers on a thread of its own.
  final class AnsweredSocket: @unchecked Sendable {
    private let socket: RawSocket
    private let answers = Mutex((count: 0, refusal: String?.none))
    private var outgoing: [UInt8] = []

    /// - Parameters:
    ///   - answer: what is in each answer, once.
    ///   - refusals: what is only in an answer that is a refusal.
    init(port: Int, answer: String, refusals: [String]) throws {
      let socket = try RawSocket.connect(port: port, blocks: true)
      self.socket = socket
      let (answer, refusals) = (Array(answer.utf8), refusals.map { Array($0.utf8) })
      Thread.detachNewThread { [self] in
        // What lies before the first answer, and then the end of what was looked at.
        var rest = Array("\r\n".utf8)
        while case let bytes = socket.receive(), !bytes.isEmpty {
          rest += bytes
          let count = AnsweredSocket.count(answer, in: rest)
          let refusal = refusals.first { AnsweredSocket.count($0, in: rest) > 0 }
          answers.withLock { known in
            known.count += count
            if let refusal { known.refusal = String(decoding: refusal, as: UTF8.self) + " …" }
          }
          rest = Array(rest.suffix(answer.count - 1))
        }
      }
    }

    private static func count(_ pattern: [UInt8], in bytes: [UInt8]) -> Int {
      guard bytes.count >= pattern.count else { return 0 }
      return (0...bytes.count - pattern.count).count { start in
        bytes[start] == pattern[0] && bytes[start..<start + pattern.count].elementsEqual(pattern)
      }
    }

    func write(_ bytes: some Sequence<UInt8>) { outgoing.append(contentsOf: bytes) }

    /// Sends what was written. Throws what the server has refused.
    func flush() throws {
      if let refusal = answers.withLock({ $0.refusal }) { throw BenchFailure(refusal) }
      if !outgoing.isEmpty, !socket.send(outgoing) { throw BenchFailure("the connection was closed") }
      outgoing.removeAll(keepingCapacity: true)
    }

    var answered: Int { answers.withLock { $0.count } }

    /// Waits until so many answers have come.
    func waitForAnswers(_ count: Int) async throws {
      let deadline = ContinuousClock.now + .seconds(120)
      while answered < count {
        try flush()
        guard ContinuousClock.now < deadline else { throw BenchFailure("\(answered) of \(count) entries were taken") }
        try await Task.sleep(for: .milliseconds(2))
      }
    }

    func close() { socket.shutDown() }
  }

  struct BenchFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
  }
#endif
