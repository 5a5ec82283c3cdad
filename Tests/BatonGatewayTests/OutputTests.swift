import BatonGateway
import Dispatch
import Foundation
import NIOConcurrencyHelpers
import NIOCore
import Testing

@Suite struct OutputTests {
  private func occurrences(_ trouble: inout RecurringTrouble, everySeconds step: Int64, until end: Int64) -> [Int64] {
    var told: [Int64] = []
    for second in stride(from: Int64(1000), through: 1000 + end, by: Int(step)) {
      if trouble.occurred(at: .uptimeNanoseconds(UInt64(second) * 1_000_000_000)) != nil { told.append(second - 1000) }
    }
    return told
  }

  @Test("a trouble is told at once, then with a growing pause")
  func pauses() {
    var trouble = RecurringTrouble()
    #expect(occurrences(&trouble, everySeconds: 1, until: 200) == [0, 5, 15, 35, 75, 155])
  }

  @Test("its end is told once, and only where it was told itself")
  func end() {
    var trouble = RecurringTrouble()
    func times(_ second: UInt64) -> Int? { trouble.occurred(at: .uptimeNanoseconds((1000 + second) * 1_000_000_000)) }
    let told = [
      trouble.ended(), times(0) == 1, trouble.ended(), trouble.ended(),
      // Soon again it is the same trouble.
      times(1) != nil, trouble.ended(), times(6) == 2, trouble.ended(),
      // Much later it is another one.
      times(600) == 1,
    ]
    #expect(told == [false, true, true, false, false, false, true, true, true])
  }

  @Test("a pipe that nobody reads holds up nobody, and what has no room is counted")
  func stalled() throws {
    let pipe = Pipe()
    let output = LineOutput(pipe.fileHandleForWriting.fileDescriptor)
    let line = String(repeating: "x", count: 1023) + "\n"
    for _ in 0..<3000 { output.write(line) }
    #expect(output.dropped > 3000 - UInt64(LineOutput.limit / 1024) - 128)
    output.flush(within: .milliseconds(1))
    let lost = output.dropped
    // Read at last, all that was not lost is there.
    let received = NIOLockedValueBox(0)
    let whole = (3000 - Int(lost)) * 1024
    let done = DispatchSemaphore(value: 0)
    Thread.detachNewThread {
      while received.withLockedValue({ $0 }) < whole {
        let count = pipe.fileHandleForReading.availableData.count
        if count == 0 { break }
        received.withLockedValue { $0 += count }
      }
      done.signal()
    }
    #expect(done.wait(timeout: .now() + 60) == .success)
    #expect(received.withLockedValue { $0 } == whole)
    #expect(output.dropped == lost)
  }

  @Test("a descriptor that refuses loses the lines, each counted")
  func refused() throws {
    signal(SIGPIPE, SIG_IGN)
    let pipe = Pipe()
    try pipe.fileHandleForReading.close()
    for descriptor in [pipe.fileHandleForWriting.fileDescriptor, open("/dev/full", O_WRONLY), -1] {
      let output = LineOutput(descriptor)
      for n in 0..<5 { output.write("line \(n)\n") }
      output.flush(within: .seconds(60))
      #expect(output.dropped == 5)
    }
  }

  @Test("a descriptor made non-blocking by others is waited for")
  func nonBlocking() throws {
    let pipe = Pipe()
    _ = fcntl(pipe.fileHandleForWriting.fileDescriptor, F_SETFL, O_NONBLOCK)
    let output = LineOutput(pipe.fileHandleForWriting.fileDescriptor)
    for _ in 0..<200 { output.write(String(repeating: "y", count: 1023) + "\n") }
    let done = DispatchSemaphore(value: 0)
    Thread.detachNewThread {
      var left = 200 * 1024
      while left > 0 { left -= pipe.fileHandleForReading.availableData.count }
      done.signal()
    }
    #expect(done.wait(timeout: .now() + 60) == .success)
    #expect(output.dropped == 0)
  }
}
