import NIOCore
import Testing

@testable import BatonGateway

/// Transcripts of what a connection carries.
@Suite struct GateStateTests {
  private var state: GateState
  private let start = NIODeadline.uptimeNanoseconds(0)
  private let limits = HTTPLimits()

  init() { state = GateState(now: start) }

  private mutating func head(
    _ kind: GateState.Kind, isLast: Bool = false, expects: Bool = false, at seconds: Int64 = 0
  ) -> GateState.Action {
    state.headArrived(kind, isLast: isLast, expectsContinue: expects, now: start + .seconds(seconds))
  }

  private mutating func answer(isDraining: Bool = false, at seconds: Int64 = 0) -> (closes: Bool, GateState.Action) {
    (state.answerStarted(isDraining: isDraining), state.answerEnded(now: start + .seconds(seconds)))
  }

  @Test("control requests pass, one after the other")
  mutating func control() {
    for _ in 0..<2 {
      #expect(head(.control) == .pass)
      #expect(state.bodyArrived() == .pass)
      #expect(state.endArrived() == .pass)
      #expect(state.isBusy)
      #expect(answer() == (false, .nothing))
      #expect(!state.isBusy)
    }
  }

  @Test("a first request that attaches is decided once it is whole")
  mutating func attach() {
    #expect(head(.device) == .nothing)
    #expect(state.takesBytes)
    #expect(state.bodyArrived() == .nothing)
    #expect(state.endArrived() == .decide)
    state.readCompleted()
    #expect(state.takesBytes)
    state.readCompleted()
    #expect(!state.takesBytes)
    #expect(state.isBusy)
    state.decided(isAdmitted: true, now: start)
    #expect(state.isDevice && !state.isBusy)
    #expect(state.deadline(limits) == nil)
  }

  @Test("an attach waits for the answers before it")
  mutating func pipelined() {
    #expect(head(.control) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(head(.device) == .nothing)
    #expect(state.endArrived() == .nothing)
    #expect(!state.takesBytes)
    #expect(answer() == (false, .decide))
    #expect(state.takesBytes)
    state.readCompleted()
    #expect(!state.takesBytes)
    state.decided(isAdmitted: false, now: start)
    #expect(state.isLingering && state.takesBytes)
  }

  @Test("answers end before an attach is whole")
  mutating func lateAttach() {
    #expect(head(.control) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(head(.device) == .nothing)
    #expect(answer() == (false, .nothing))
    #expect(state.endArrived() == .decide)
  }

  @Test("a refusal waits for the answers before it")
  mutating func refused() {
    #expect(head(.control) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(head(.refused) == .nothing)
    #expect(answer() == (false, .refuse))
    #expect(state.isLingering)
  }

  @Test("who is answered before the body's end is told, and listened to until it ends")
  mutating func earlyAnswer() {
    #expect(head(.control, at: 1) == .pass)
    #expect(state.bodyArrived() == .pass)
    #expect(answer(at: 2) == (true, .linger))
    #expect(state.bodyArrived() == .nothing)
    #expect(head(.control) == .nothing)
    #expect(state.isBusy)
    #expect(state.deadline(limits) == start + .seconds(7))
    #expect(state.inputClosed() == .close)
  }

  @Test("the last request of a connection, also while the node goes away")
  mutating func last() {
    #expect(head(.control, isLast: true) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(answer() == (true, .linger))
    state = GateState(now: start)
    #expect(head(.control) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(answer(isDraining: true) == (true, .linger))
  }

  @Test("100 Continue is sent once, to who waits for it")
  mutating func expectation() {
    #expect(head(.control, expects: true) == .pass)
    #expect(state.bodyWanted() == true)
    #expect(state.bodyWanted() == false)
    state = GateState(now: start)
    #expect(head(.control, expects: true) == .pass)
    #expect(state.bodyArrived() == .pass)
    #expect(state.bodyWanted() == false)
  }

  @Test("what is no HTTP: first, behind an answer that is due, within a body, behind all")
  mutating func malformed() {
    #expect(state.parserFailed() == .refuseMalformed)
    #expect(state.isLingering)
    #expect(state.parserFailed() == .nothing)
    state = GateState(now: start)
    #expect(head(.control) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(state.parserFailed() == .nothing)
    #expect(state.answerStarted(isDraining: false) == true)
    #expect(state.answerEnded(now: start) == .refuseMalformed)
    state = GateState(now: start)
    #expect(head(.control) == .pass)
    #expect(state.parserFailed() == .pass)
    #expect(answer() == (true, .linger))
  }

  @Test("a connection that is told to go away goes when its answers are written")
  mutating func quiesced() {
    #expect(head(.control) == .pass)
    #expect(state.endArrived() == .pass)
    #expect(state.quiesced() == .nothing)
    #expect(answer() == (true, .linger))
    state = GateState(now: start)
    #expect(state.quiesced() == .close)
  }

  @Test("deadlines: the first head, then between requests, never under one")
  mutating func deadlines() {
    #expect(state.deadline(limits) == start + .seconds(10))
    #expect(head(.control, at: 3) == .pass)
    #expect(state.deadline(limits) == nil)
    #expect(state.endArrived() == .pass)
    #expect(answer(at: 5) == (false, .nothing))
    #expect(state.deadline(limits) == start + .seconds(65))
  }

  @Test("refusals are logged at a pace, and what was left out is told")
  func pace() {
    var pace = Refusals.Pace(now: start)
    for _ in 0..<5 { #expect(pace.next(start) == 0) }
    for _ in 0..<3 { #expect(pace.next(start + .seconds(9)) == nil) }
    #expect(pace.next(start + .seconds(10)) == 3)
    #expect(pace.next(start + .seconds(11)) == nil)
  }

  @Test("the date of RFC 9110")
  func date() {
    #expect(HTTPDate.text(784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT")
  }
}
