#if os(Linux)
  import Foundation

  /// What the system has accounted to processes.
  struct ProcessUsage {
    /// Nanoseconds on a processor.
    var nanoseconds: UInt64 = 0
    /// Bytes of resident memory.
    var resident = 0

    static func of(_ processes: [Int32]) -> ProcessUsage {
      var usage = ProcessUsage()
      for process in processes {
        usage.nanoseconds += processNanoseconds(process)
        usage.resident += Int(number("/proc/\(process)/statm", 1)) * Int(sysconf(Int32(_SC_PAGESIZE)))
      }
      return usage
    }

    /// A process and all that it has started.
    static func family(of process: Int32) -> [Int32] {
      let path = "/proc/\(process)/task/\(process)/children"
      let children = ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "").split(separator: " ").compactMap {
        Int32($0)
      }
      return [process] + children.flatMap(family)
    }

    /// Of all its threads, those that have ended among them; 0 where there is no such process.
    private static func processNanoseconds(_ process: Int32) -> UInt64 {
      var (clock, time) = (clockid_t(), timespec())
      guard clock_getcpuclockid(process, &clock) == 0, clock_gettime(clock, &time) == 0 else { return 0 }
      return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    private static func number(_ path: String, _ index: Int) -> UInt64 {
      let fields = ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "").split(whereSeparator: \.isWhitespace)
      return fields.count > index ? UInt64(fields[index]) ?? 0 : 0
    }
  }

  extension PrivateRedis {
    /// Without the shell that runs it.
    var processes: [Int32] { ProcessUsage.family(of: processIdentifier).dropFirst().map { $0 } }
  }

  /// Nanoseconds since some moment, the same for all threads.
  func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// Nanoseconds that this thread has been on a processor.
  func threadNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
#endif
