import BatonUpstream
import Foundation
import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonRelay

struct CodecTests {
  /// Entries as the step numbers them, one an item.
  private func entries(_ codec: inout ResponsesCodec, _ events: [String]) -> [RelayedEntry] {
    entries(events.flatMap { codec.received(.event(name: "", data: Array($0.utf8))) })
  }

  private func entries(_ items: [RelayItem]) -> [RelayedEntry] {
    items.enumerated().map { index, item in
      switch item {
      case .delta(let text, let part):
        RelayedEntry(
          event: "token", part: part, n: UInt64(index + 1), hasMore: false, data: Array(text.readableBytesView))
      case .event(let json, let more):
        RelayedEntry(
          event: "openai", part: nil, n: UInt64(index + 1), hasMore: more, data: Array(json.readableBytesView))
      case .verbatim(let data, _, _, let more):
        RelayedEntry(
          event: "sse", part: nil, n: UInt64(index + 1), hasMore: more,
          data: Array((data ?? ByteBuffer()).readableBytesView))
      }
    }
  }

  @Test(arguments: [0, 1, 1000, 131_071, 131_072, 131_073, 262_000, 262_144, 400_000])
  func aNumberIsThatOfItsLastEntry(_ size: Int) throws {
    let long = String(repeating: "é", count: size / 2) + String(repeating: "x", count: size % 2)
    var codec = ResponsesCodec(id: "resp_1", createdAt: 1, model: "m")
    let entries = entries(
      &codec,
      [
        #"{"type":"response.created","response":{}}"#,
        #"{"type":"response.output_item.added","output_index":0,"item":{"id":"i","type":"message"}}"#,
        #"{"type":"response.output_text.delta","item_id":"i","output_index":0,"content_index":0,"delta":"\#(long)"}"#,
        #"{"type":"response.output_text.done","item_id":"i","output_index":0,"content_index":0,"text":"\#(long)"}"#,
        #"{"type":"response.completed","response":{"output":[{"id":"i","type":"message","content":[{"type":"output_text","text":"\#(long)"}]}]}}"#,
      ])
    var wire = ResponsesWire()
    var text: [UInt8] = []
    var told: LenientJSON?
    for entry in entries {
      #expect(entry.data.count <= ByteBuffer.deltaLimit)
      guard let event = wire.event(entry)?.json else {
        #expect(entry.hasMore)
        continue
      }
      #expect(event["sequence_number"]?.whole.map(UInt64.init) == (entry.n ?? 0) - 1)
      if case .string(let delta)? = event["delta"] { text += delta }
      told = event["text"] ?? told
    }
    #expect(text == Array(long.utf8) && told?.text == long)
    #expect(codec.end?.how == .end)
  }

  @Test func anEventThatIsTooLargeIsLeftOutAndTold() {
    for (stream, how) in [("data: a\n\n", "end"), ("data: \(String(repeating: "x", count: 200))\n\n", "error")] {
      var decoder = EventStreamDecoder(limit: 100, isVerbatim: true)
      var codec = EventStreamCodec()
      let items = decoder.received(ByteBuffer(string: stream + "event: b")) + decoder.ended()
      let told = items.flatMap { codec.received($0) }
      #expect(told.last == .verbatim(nil, name: "b", id: nil, more: false) && told.count == (how == "end" ? 2 : 1))
      #expect(codec.end == nil)
      codec.ended()
      #expect(codec.end?.how.rawValue == how)
    }
    var codec = EventStreamCodec()
    let name = String(repeating: "x", count: 20_000)
    #expect(codec.received(.verbatim(name: name, id: nil, data: [])) == [])
    codec.ended()
    #expect(codec.end?.how == .error)
  }

  @Test func namesThatAreTooLongAreNotKept() {
    var codec = ResponsesCodec(id: "resp_1", createdAt: 1, model: "m")
    let name = String(repeating: "x", count: 200)
    let entries = entries(
      &codec,
      [
        #"{"type":"response.output_item.added","output_index":3,"item":{"id":"\#(name)","type":"message"}}"#,
        #"{"type":"response.output_text.delta","item_id":"\#(name)","delta":"a"}"#,
      ])
    var wire = ResponsesWire()
    let events = entries.compactMap { wire.event($0)?.json }
    #expect(events.map { $0["sequence_number"]?.whole } == [0, 1])
    #expect(events.last?["delta"]?.text == "a")
  }

  @Test(arguments: [RelayStop.cancelled, .cut("why"), .drained])
  func whatBreaksOffIsTold(_ why: RelayStop) {
    var codec = ResponsesCodec(id: "resp_1", createdAt: 1, model: "m")
    _ = codec.received(.event(name: "", data: Array(#"{"type":"response.created","response":{}}"#.utf8)))
    let (items, end) = codec.stopped(why)
    var fold = ResponseFold()
    var wire = ResponsesWire()
    for entry in entries(items) { if let event = wire.event(entry) { fold.take(event.json) } }
    let isCancel = end.how == .cancelled
    #expect(fold.isOver && fold.object?["status"]?.text == (isCancel ? "cancelled" : "failed"))
    #expect(fold.object?["error"]?["message"]?.text == (isCancel ? nil : why.words))
  }

  @Test func chunksOfTextBecomeDeltas() {
    var codec = ChatCodec(model: "m")
    let long = String(repeating: "x", count: 300_000)
    let told = [
      #"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
      #"{"id":"c","choices":[{"index":0,"delta":{"content":"\#(long)"}}]}"#,
      #"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, "[DONE]",
    ]
    let entries = entries(told.flatMap { codec.received(.event(name: "", data: Array($0.utf8))) })
    var wire = ChatWire()
    let chunks = entries.compactMap { wire.chunk($0) }
    let text = chunks.compactMap { $0["choices"]?.elements?.first?["delta"]?["content"]?.text }.joined()
    #expect(text == long && chunks.count == 5 && chunks.allSatisfy { $0["id"]?.text == "c" })
    #expect(codec.end?.how == .end)
  }

  @Test("the first chunk is kept, so that those that are made again have its members")
  func chunksThatBeginWithText() {
    var codec = ChatCodec(model: "m")
    let told = [#"{"id":"c","created":7,"choices":[{"index":0,"delta":{"content":"a"}}]}"#, "[DONE]"]
    let entries = entries(told.flatMap { codec.received(.event(name: "", data: Array($0.utf8))) })
    var wire = ChatWire()
    let chunks = entries.compactMap { wire.chunk($0) }
    #expect(chunks.map { $0["choices"]?.elements?.first?["delta"]?["content"]?.text } == ["", "a"])
    #expect(chunks.allSatisfy { $0["id"]?.text == "c" && $0["created"]?.whole == 7 })
  }

  private func told(_ items: [RelayItem]) -> [LenientJSON] {
    var wire = ResponsesWire()
    return entries(items).compactMap { wire.event($0)?.json }
  }

  @Test("what was told while it waited is what the session has of it, whatever the model server says first")
  func queued() {
    let made = ResponsesCodec(id: "resp_1~s", createdAt: 1, model: "m", isQueued: true)
    let firsts = [
      [
        #"{"type":"response.created","response":{"id":"up","status":"queued"}}"#, #"{"type":"response.queued"}"#,
        #"{"type":"response.in_progress"}"#,
      ],
      [#"{"type":"response.in_progress","response":{}}"#], [],
    ]
    for first in firsts {
      var codec = made
      let text = #"{"type":"response.output_text.delta","item_id":"i","delta":"a"}"#
      let events = told((first + [text]).flatMap { codec.received(.event(name: "", data: Array($0.utf8))) })
      #expect(events.prefix(2).map(\.json) == made.queuing.map(\.json))
      #expect(events.compactMap { $0["sequence_number"]?.whole } == Array(0..<(first.isEmpty ? 3 : 4)))
      #expect(first.isEmpty || events[2]["response"]?["status"]?.text == "in_progress")
      #expect(codec.upstreamID == (first.count == 3 ? "up" : nil))
    }
  }

  @Test("what ends before it has begun has its numbers in their order", arguments: [false, true], [false, true])
  func endedBeforeItBegan(_ isChat: Bool, _ isQueued: Bool) {
    let responses = ResponsesCodec(id: "resp_1", createdAt: 1, model: "m", isQueued: isQueued)
    var codec: any RelayCodec = isChat ? ChatResponsesCodec(responses) : responses
    let events = told(codec.stopped(.cut("why")).0)
    #expect(events.compactMap { $0["sequence_number"]?.whole } == Array(0..<events.count))
    #expect(events.last?["type"]?.text == "response.failed")
    #expect(events.first?["type"]?.text == (isChat || isQueued ? "response.created" : "response.failed"))
  }
}
