/// Who speak for a listed Sentinel while it is silent: others that it knew, and those whom these know. All of them together
/// have its one vote, so that nobody has more to say by naming others.
struct SentinelDeputies {
  typealias Address = RedisURL.Address

  /// So many at most.
  static let most = 16

  private(set) var addresses: [Address] = []

  /// The listed one tells whom it knows.
  mutating func appointed(_ others: some Sequence<Address>) { addresses = Array(others.prefix(Self.most)) }

  /// One of them does, while the listed one is silent.
  mutating func joined(_ others: some Sequence<Address>) {
    for other in others where addresses.count < Self.most && !addresses.contains(other) { addresses.append(other) }
  }

  /// Whom most of those name who name somebody; nil where there is none.
  func choice(_ named: [Address: Address]) -> Address? {
    let names = addresses.compactMap { named[$0] }
    return names.first { name in names.count { $0 == name } * 2 > names.count }
  }
}
