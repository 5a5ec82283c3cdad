import Dispatch
import Foundation
import FuzzTargets

#if FUZZ
  import CLibFuzzer
#endif

/// `fuzz TARGET FILE…` checks each file. Built with libFuzzer (`Tests/run fuzz`), it takes libFuzzer's options and folders in
/// their place.
@main
enum Fuzz {
  private static let target = CommandLine.arguments.dropFirst().first.flatMap(FuzzTarget.init)

  static func main() {
    guard target != nil else {
      print("fuzz: the first argument is one of \(FuzzTarget.allCases.map(\.rawValue).joined(separator: ", "))")
      exit(64)
    }
    #if FUZZ
      var count = CommandLine.argc - 1
      var values: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv + 1
      exit(
        LLVMFuzzerRunDriver(&count, &values) { data, size in
          Fuzz.run(Array(UnsafeBufferPointer(start: data, count: size)))
          return 0
        })
    #else
      for path in CommandLine.arguments.dropFirst(2) {
        guard let input = FileManager.default.contents(atPath: path) else {
          print("fuzz: \(path) can't be read")
          exit(66)
        }
        run(Array(input))
      }
    #endif
  }

  /// Ends the process where something does not hold, so that libFuzzer keeps the input.
  private static func run(_ input: [UInt8]) {
    guard let target else { return }
    let done = DispatchSemaphore(value: 0)
    Task.detached {
      do { try await target.check(input) } catch { fatalError("\(target.rawValue): \(error)") }
      done.signal()
    }
    done.wait()
  }
}
