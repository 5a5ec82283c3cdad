import BatonProtocol
import Foundation
import Testing

@testable import BatonCheck

/// Histories made at random by the protocol's rules pass, and each change of one is found. `BATON_SEED` repeats one.
@Suite struct RandomHistoryTests {
  private static let seeds: [UInt64] =
    ProcessInfo.processInfo.environment["BATON_SEED"].flatMap { UInt64($0) }.map { [$0] } ?? Array(1...500)

  @Test func honestOnesPassAndChangedOnesDoNot() {
    var (tried, resets) = ([Change: Int](), 0)
    for seed in Self.seeds {
      var random = Dice(seed: seed)
      let story = World(&random).story
      let found = story.judged()
      #expect(found == [], "seed \(seed)")
      resets += story.devices.flatMap(\.1).count { if case .frame(.reset) = $0.0 { true } else { false } }
      for change in Change.allCases {
        guard let changed = story.changed(change, &random) else { continue }
        tried[change, default: 0] += 1
        #expect(changed.judged().contains { $0.hasPrefix(change.finding) }, "seed \(seed), \(change)")
      }
    }
    guard Self.seeds.count > 1 else { return }
    #expect(resets >= 200 && Change.allCases.allSatisfy { tried[$0] ?? 0 >= 50 }, "\(resets) resets, \(tried)")
  }

  enum Change: CaseIterable {
    case removed, doubled, swapped, text, check, removedInStream

    var finding: String {
      switch self {
      case .removed, .removedInStream: "lost"
      case .doubled: "doubled"
      case .swapped: "reordered"
      case .text, .check: "foreign"
      }
    }
  }
}

/// SplitMix64.
private struct Dice: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }
}

/// A producer, a Redis that fails over and is trimmed, and devices that come and go.
private struct World {
  private(set) var story = Story()
  private var now: UInt64 = 1
  private var stream: [StreamEntry] = []
  /// Deltas that the stream has, and that were meant.
  private var written: UInt64 = 0
  private var meant: UInt64 = 0
  /// Every delta's place in this history, those that were deleted too.
  private var numbers: [(id: EntryID, n: UInt64)] = []
  private var produced: [(RecordingEvent, Int64)] = [(.opened(after: 0), 0)]
  private var devices: [Device] = []

  private struct Device {
    var events: [(RecordingEvent, Int64)] = []
    var place = Offset.zero
    var ends: [Offset] = []
    var isAttached = false
  }

  init(_ random: inout Dice) {
    for _ in 0..<(20 + random.below(60)) {
      now += 1
      switch random.below(12) {
      case 0..<4: produce(1 + random.below(3), &random)
      case 4: stream.append(note(now))
      case 5 where devices.count < 4: devices.append(Device())
      case 6 where random.below(3) == 0: failOver(&random)
      case 7 where random.below(2) == 0: delete(&random)
      case 8 where random.below(4) == 0: trim(&random)
      case 9 where !devices.isEmpty: loseConnection(random.below(devices.count))
      default: if !devices.isEmpty { deliver(random.below(devices.count), 1 + random.below(6), &random) }
      }
    }
    while written < meant { append(3) }
    now += 1
    stream.append(end(now))
    produced += [
      (.end("end", data: nil), Int64(now)), (.acknowledged(through: meant, end: "end", id: nil), Int64(now)),
    ]
    for index in devices.indices {
      repeat { deliver(index, 4, &random) } while devices[index].place.id != stream.last?.offset.id
      story.devices.append((.init(device: "d\(index)"), devices[index].events))
    }
    story.producers = [("r", produced)]
    story.stream = stream
    story.entriesAdded = UInt64(stream.count) + (story.deletions.isEmpty ? 0 : 1)
    story.options.toEnd = true
  }

  private mutating func produce(_ count: Int, _ random: inout Dice) {
    for _ in 0..<count {
      meant += 1
      produced.append((.delta(n: meant, Digest("t\(meant) ")), Int64(now)))
    }
    append(count + random.below(3))
  }

  /// What the stream lacks, as one entry; what a failover took, too.
  private mutating func append(_ count: Int) {
    let last = min(meant, written + UInt64(count))
    guard last > written else { return }
    now += 1
    let text = (written + 1...last).map { "t\($0) " }.joined()
    let joined = last - written > 1 ? fields(["joined": "\(last - written)"]) : []
    stream.append(
      StreamEntry(
        id: EntryID(now, 0), pairs: fields(["response": "r", "n": "\(last)", "data": text]) + joined))
    written = last
    numbers.append((EntryID(now, 0), last))
    produced.append((.acknowledged(through: written, end: nil, id: EntryID(now, 0)), Int64(now)))
  }

  private mutating func failOver(_ random: inout Dice) {
    let kept = stream.count - random.below(min(stream.count, 4) + 1)
    guard kept < stream.count else { return }
    numbers.removeAll { $0.id >= stream[kept].offset.id }
    stream.removeSubrange(kept...)
    written = numbers.last?.n ?? 0
  }

  private mutating func delete(_ random: inout Dice) {
    guard stream.count > 3 else { return }
    let entry = stream.remove(at: random.below(stream.count - 3))
    story.deletions.append((.deleted([entry.offset.id]), Int64(now)))
  }

  private mutating func trim(_ random: inout Dice) {
    guard stream.count > 4 else { return }
    stream.removeFirst(random.below(stream.count - 4))
    story.deletions.append((.trimmed(before: stream[0].offset.id), Int64(now)))
  }

  private mutating func loseConnection(_ index: Int) {
    guard devices[index].isAttached else { return }
    devices[index].isAttached = false
    devices[index].events.append((.lost, Int64(now)))
  }

  private mutating func deliver(_ index: Int, _ count: Int, _ random: inout Dice) {
    var device = devices[index]
    defer { devices[index] = device }
    func tell(_ frame: DeviceFrame) { device.events.append((.frame(frame), Int64(now))) }
    let at = stream.firstIndex { $0.offset == device.place }
    let isKnown = at != nil || device.place == .zero
    if !device.isAttached {
      device.events.append((.connecting, Int64(now)))
      let before = stream.last { $0.offset.id <= device.place.id }?.offset ?? .zero
      tell(attached(isKnown ? device.place : before, holdsEntries: !stream.isEmpty))
      device.isAttached = true
    }
    if !isKnown {
      let known = device.ends.last { offset in stream.contains { $0.offset == offset } } ?? .zero
      let from = random.below(2) == 0 ? known : .zero
      tell(.reset(reason: "diverged", from: from, offset: from))
      device.place = from
      device.ends.removeAll { $0.id > from.id }
    }
    var next = stream.firstIndex { $0.offset.id > device.place.id } ?? stream.count
    for _ in 0..<count where next < stream.count {
      var last = next
      while last + 1 < stream.count, random.below(2) == 0, joins(stream[last], stream[last + 1]) { last += 1 }
      tell(joinedFrame(Array(stream[next...last])))
      device.place = stream[last].offset
      device.ends.append(device.place)
      next = last + 1
    }
    if next == stream.count { tell(.live(device.place)) }
  }

  private func joins(_ one: StreamEntry, _ next: StreamEntry) -> Bool {
    guard one.isJoinable, next.isJoinable, let n = one.shown.n, let m = next.shown.n else { return false }
    return m - next.shown.joined == n
  }
}

extension Story {
  /// One entry's frame that the device has kept and the stream still has is changed, or an entry of the stream is lost.
  fileprivate func changed(_ change: RandomHistoryTests.Change, _ random: inout Dice) -> Story? {
    var story = self
    if change == .removedInStream {
      let deltas = (stream ?? []).indices.filter { stream?[$0].shown.n != nil }
      // What was deleted next to it may be taken for it.
      guard deletions.isEmpty, let index = deltas.randomElement(using: &random) else { return nil }
      story.stream?.remove(at: index)
      return story
    }
    guard let device = devices.indices.randomElement(using: &random) else { return nil }
    var events = devices[device].1
    let reset = events.lastIndex { if case .frame(.reset) = $0.0 { true } else { false } } ?? 0
    let places = events.indices.filter { index in
      guard index > reset, case .frame(.entry(let shown)) = events[index].0 else { return false }
      return stream?.contains { $0.offset == shown.offset } ?? false
    }
    guard let at = places.randomElement(using: &random), case .frame(.entry(var shown)) = events[at].0 else {
      return nil
    }
    switch change {
    case .removed: events.remove(at: at)
    case .doubled: events.insert(events[at], at: at + 1)
    case .swapped:
      guard let other = places.first(where: { $0 > at }) else { return nil }
      events.swapAt(at, other)
    case .text:
      shown.data = Digest("other")
      events[at].0 = .frame(.entry(shown))
    case .check:
      shown.offset.check = shown.offset.check.map { $0 ^ 1 }
      events[at].0 = .frame(.entry(shown))
    case .removedInStream: break
    }
    story.devices[device].1 = events
    return story
  }
}
