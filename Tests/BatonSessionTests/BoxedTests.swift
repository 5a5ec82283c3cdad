import BatonProtocol
import Testing

@Suite struct BoxedTests {
  private struct Holder {
    @Boxed var numbers: [Int]?
  }

  @Test func aCopyIsAValueOfItsOwn() {
    var one = Holder(numbers: Boxed(wrappedValue: [1]))
    let other = one
    one.numbers?.append(2)
    #expect(one.numbers == [1, 2])
    #expect(other.numbers == [1])
    one.numbers = nil
    #expect(one.numbers == nil && !one.$numbers)
    #expect(other.numbers == [1] && other.$numbers)
  }

  /// What it holds is not copied with each change.
  @Test func itIsChangedInItsPlace() {
    var one = Holder(numbers: Boxed(wrappedValue: Array(0..<1000)))
    let before = one.numbers?.withUnsafeBufferPointer { $0.baseAddress }
    one.numbers?[0] = 7
    #expect(one.numbers?.withUnsafeBufferPointer { $0.baseAddress } == before)
    #expect(one.numbers?.first == 7)
  }

  @Test func whatIsNotThereStaysSo() {
    var none = Holder()
    none.numbers?.append(1)
    #expect(none.numbers == nil && !none.$numbers)
    none.numbers = [3]
    #expect(none.numbers == [3])
  }
}
