import BatonProtocol
import Foundation

/// The responses of a session as text, put together from its entries. It obeys `reset`.
public struct SessionTranscript: Sendable {
  /// One response so far.
  public struct Response: Sendable {
    /// Nil for entries that belong to no response.
    public let name: String?
    /// How a response ended.
    public enum Ending: String, Sendable { case end, error, cancelled }

    /// Nil while the response is open.
    public fileprivate(set) var ending: Ending?
    /// What came with the end, such as the reason, as JSON.
    public fileprivate(set) var endingData: String?
    private var bytes = Data()
    /// Where each entry's share of `bytes` ends, in stream order.
    private var pieces: [(id: EntryID, end: Int, n: UInt64)] = []
    /// The last delta's number.
    private var n: UInt64 { pieces.last?.n ?? 0 }
    private var endingID: EntryID?
    fileprivate var firstID: EntryID
    /// The start of the response that stands in its place.
    fileprivate var supersededAt: EntryID?

    fileprivate init(name: String?, firstID: EntryID) {
      self.name = name
      self.firstID = firstID
    }

    /// A response for tests and previews.
    public init(name: String?, text: String, ending: Ending? = nil, endingData: String? = nil) {
      self.init(name: name, firstID: .zero)
      (bytes, self.ending, self.endingData) = (Data(text.utf8), ending, endingData)
    }

    /// The deltas so far. A character of which a part is missing yet is shown as U+FFFD.
    public var text: String { String(decoding: bytes, as: UTF8.self) }

    fileprivate mutating func append(_ entry: Frame.Entry) {
      if entry.event == "token", let data = entry.data {
        // An append that was sent twice (PROTOCOL 2).
        if let number = entry.n, name != nil, number <= n { return }
        if entry.isShownText { bytes.append(data) }
        pieces.append((entry.id.id, bytes.count, entry.n ?? n + 1))
      } else if let ending = Ending(rawValue: entry.event) {
        self.ending = ending
        endingData = entry.text
        endingID = entry.id.id
      }
    }

    fileprivate mutating func drop(after id: EntryID) {
      while let last = pieces.last, last.id > id { pieces.removeLast() }
      bytes.removeLast(bytes.count - (pieces.last?.end ?? 0))
      if let endingID, endingID > id {
        ending = nil
        endingData = nil
        self.endingID = nil
      }
      if let supersededAt, supersededAt > id { self.supersededAt = nil }
    }
  }

  /// In the order of their first entries; without those that another one supersedes.
  public var responses: [Response] { all.filter { $0.supersededAt == nil } }
  private var all: [Response] = []

  public init() {}

  /// Takes one event of the session in; those that change no text are left alone.
  public mutating func apply(_ event: SessionAttachment.Event) {
    guard case .frame(let frame) = event else { return }
    switch frame.kind {
    case .entry(let entry): append(entry)
    case .reset(let reset):
      all.removeAll { $0.firstID > reset.from.id }
      for index in all.indices { all[index].drop(after: reset.from.id) }
    default: break
    }
  }

  private mutating func append(_ entry: Frame.Entry) {
    let concerns = entry.event == "token" || entry.event == "start" || entry.isEnding
    guard concerns else { return }
    if entry.event == "start", let old = Words(entry)?.supersedes, old != entry.response,
      let index = all.lastIndex(where: { $0.name == old })
    {
      all[index].supersededAt = entry.id.id
    }
    if let index = all.lastIndex(where: { $0.name == entry.response }) {
      all[index].append(entry)
    } else if !entry.isEnding || Words(entry)?.reason != "superseded" {
      var response = Response(name: entry.response, firstID: entry.id.id)
      response.append(entry)
      all.append(response)
    }
  }

  /// What the data of a start or an end may say.
  private struct Words: Decodable {
    let supersedes: String?
    let reason: String?

    init?(_ entry: Frame.Entry) {
      guard let data = entry.data, let words = try? JSONDecoder().decode(Words.self, from: data) else { return nil }
      self = words
    }
  }
}
