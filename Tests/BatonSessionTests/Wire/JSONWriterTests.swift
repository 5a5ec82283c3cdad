import Foundation
import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct JSONWriterTests {
  private func written(_ body: (inout JSONWriter) -> Void) -> String {
    var json = JSONWriter(into: ByteBuffer())
    body(&json)
    return json.buffer.text
  }

  @Test func putsCommasWhereTheyBelong() {
    let text = written { json in
      json.object { json in
        json.name("a")
        json.array { json in
          json.value(1)
          json.object { _ in }
          json.value("x")
          json.array { _ in }
          json.null()
          json.value(true)
          json.value(false)
        }
        json.member("b", UInt64.max)
        json.member("c", Int64.min)
        json.member("d", nil as String?)
        json.name("e")
        json.object { $0.member("f", "") }
      }
    }
    #expect(
      text
        == #"{"a":[1,{},"x",[],null,true,false],"b":18446744073709551615,"c":-9223372036854775808,"d":null,"e":{"f":""}}"#
    )
  }

  @Test func escapesEveryScalarSoThatAnyParserReadsItBack() throws {
    let all = String(String.UnicodeScalarView((0...0x2fff).compactMap(UnicodeScalar.init)))
    let text = written { json in json.object { $0.member("t", all) } }
    let read = try #require(JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: String])
    #expect(read["t"]?.unicodeScalars.elementsEqual(all.unicodeScalars) == true)
  }

  @Test func writesBase64AsFoundationDoes() {
    for length in 0...50 {
      let bytes = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 200) }
      var buffer = ByteBuffer()
      buffer.writeBase64(ByteBuffer(bytes: bytes))
      #expect(buffer.text == Data(bytes).base64EncodedString())
    }
  }
}
