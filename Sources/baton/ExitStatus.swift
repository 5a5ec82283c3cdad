import BatonClient

/// What the status of every command means (sysexits.h).
enum ExitStatus: Int32, CaseIterable {
  case found = 1
  case usage = 64
  case data = 65
  case unavailable = 69
  case fault = 70
  case output = 74
  case configuration = 78

  var meaning: String {
    switch self {
    case .found: "baton check has found that a promise was broken."
    case .usage: "What was asked for is wrong: an option, or a request that a server calls so."
    case .data: "What is to be judged can't be read."
    case .unavailable: "Something needed is out of reach, or says that it can't."
    case .fault: "A fault of ours."
    case .output:
      "Standard output, or a recording from its beginning, can't be written; somebody who stops reading is no failure."
    case .configuration: "Configuration, credentials among it, is wrong."
    }
  }

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
