import BatonClient

/// What the status of every command means (sysexits.h).
enum ExitStatus: Int32 {
  /// `baton check` has found that a promise was broken.
  case found = 1
  /// What was asked for is wrong: an option, or a request that a server calls so.
  case usage = 64
  /// What is to be judged can't be read.
  case data = 65
  /// Something needed is out of reach, or says that it can't.
  case unavailable = 69
  /// A fault of ours.
  case fault = 70
  /// Standard output, or a recording from its beginning, can't be written; somebody who stops reading is no failure.
  case output = 74
  /// Configuration, credentials among it, is wrong.
  case configuration = 78

  /// What each says, as manual pages have it.
  static let meanings: [(status: Int, meaning: String)] = [
    (0, "All is well; for baton check: nothing was found."),
    (Int(found.rawValue), "baton check has found that a promise was broken."),
    (Int(usage.rawValue), "What was asked for is wrong: an option, or a request that a server calls so."),
    (Int(data.rawValue), "What is to be judged can't be read."),
    (Int(unavailable.rawValue), "Something needed is out of reach, or says that it can't."),
    (Int(fault.rawValue), "A fault of ours."),
    (Int(output.rawValue), "Standard output, or a recording, can't be written."),
    (Int(configuration.rawValue), "Configuration, credentials among it, is wrong."),
  ]

  /// What an HTTP server's refusal means.
  init(httpStatus: Int) {
    switch httpStatus {
    case 401, 403: self = .configuration
    case 400, 404, 405, 413, 415, 426: self = .usage
    default: self = .unavailable
    }
  }

  init(_ rejection: SessionAttachment.Rejection) {
    switch rejection.reason {
    case .status(let status): self.init(httpStatus: status)
    case .closeCode(4401), .closeCode(4403): self = .configuration
    case .closeCode(1002), .closeCode(1003), .closeCode(1007): self = .fault
    default: self = .unavailable
    }
  }
}
