import Foundation

/// What a process of ours settles before it does anything else.
package enum ProcessStart {
  package static func prepare(environment: [String: String] = ProcessInfo.processInfo.environment) {
    // A reader that has gone is an error of the write, not the end of the process.
    signal(SIGPIPE, SIG_IGN)
    // Else the next socket would be standard error, and be sent log lines. Unwritable, so that those count as lost.
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
      _ = open("/dev/null", O_RDONLY)
    }
    // The Swift runtime writes a backtrace for some seconds, to standard error, while every device hangs.
    if environment["SWIFT_BACKTRACE"] == nil {
      for number in [SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV] { signal(number, SIG_DFL) }
    }
  }
}
