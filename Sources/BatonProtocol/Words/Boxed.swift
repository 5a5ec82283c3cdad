/// A value that mostly is not there: takes one word, and memory of its own only while it is. Of what there are many of.
@propertyWrapper
package struct Boxed<Value> {
  @usableFromInline
  final class Box {
    @usableFromInline var value: Value?
    @inlinable init(_ value: Value?) { self.value = value }
  }

  @usableFromInline var box: Box?

  @inlinable
  package init(wrappedValue: Value?) { box = wrappedValue.map { Box($0) } }

  @inlinable
  package init() { box = nil }

  /// Whether it is there.
  package var projectedValue: Bool { @inlinable get { box != nil } }

  package var wrappedValue: Value? {
    @inlinable get { box?.value }
    @inlinable set { box = newValue.map { Box($0) } }
    @inlinable _modify {
      // Changed in its place where it is nobody else's.
      let own = isKnownUniquelyReferenced(&box) ? box ?? Box(nil) : Box(box?.value)
      box = own
      defer { if own.value == nil { box = nil } }
      yield &own.value
    }
  }
}

extension Boxed: @unchecked Sendable where Value: Sendable {}
