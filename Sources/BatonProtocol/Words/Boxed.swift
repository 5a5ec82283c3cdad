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

  package var wrappedValue: Value? {
    @inlinable get { box?.value }
    @inlinable set { box = newValue.map { Box($0) } }
    @inlinable _modify {
      // Not copied where it is nobody else's.
      if box != nil, !isKnownUniquelyReferenced(&box) { box = Box(box?.value) }
      var value = box?.value.take()
      defer {
        if value == nil {
          box = nil
        } else if let box {
          box.value = value
        } else {
          box = Box(value)
        }
      }
      yield &value
    }
  }
}

extension Boxed: @unchecked Sendable where Value: Sendable {}
