import BatonProtocol

/// Finds a place by reading backwards: the place before the newest N entries, or the newest entry of several that still holds.
package struct Locator: Sendable {
  package enum Goal: Sendable {
    case newest(Int)
    /// Ids with the checks that must come back; nothing below `floor` is looked at.
    case anyOf([EntryID: Offset], floor: EntryID)
  }

  package enum Progress: Sendable {
    case read(PageRequest.Span, limit: Int)
    case found(Place)
  }

  private let goal: Goal
  private let from: EntryID?
  package let pageLimit: Int
  private var counted = 0
  private var reached: Offset?

  package init(_ goal: Goal, from: EntryID? = nil, pageLimit: Int) {
    self.goal = goal
    self.from = from
    self.pageLimit = pageLimit
  }

  package var span: PageRequest.Span { .before(reached?.id ?? from) }

  package mutating func take(_ page: Page) -> Progress {
    var entries = page.entries[...]
    if let reached {
      guard let overlap = entries.popFirst(), overlap.offset.matches(reached) else {
        // The history moved under the scan: begin again.
        self = Locator(goal, from: from, pageLimit: pageLimit)
        return .read(span, limit: pageLimit)
      }
    }
    for entry in entries {
      switch goal {
      case .newest(let n):
        if counted == n { return .found(entry.place) }
        counted += 1
      case .anyOf(let candidates, let floor):
        if let candidate = candidates[entry.id], candidate.matches(entry.offset) { return .found(entry.place) }
        if entry.id < floor { return .found(.zero) }
      }
      reached = entry.offset
    }
    return page.more ? .read(span, limit: pageLimit) : .found(.zero)
  }
}
