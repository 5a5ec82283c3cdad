import Testing

@testable import BatonRedis

@Suite struct ErrorTests {
  /// What Redis 6 to 8, Valkey and proxies say, word for word.
  @Test(arguments: [
    ("LOADING Redis is loading the dataset in memory", RedisError.Meaning.shutsForNow),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", .shutsForNow),
    ("CLUSTERDOWN The cluster is down", .shutsForNow),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", .shutsForNow),
    ("NOAUTH Authentication required.", .shutsUntilMended),
    ("WRONGPASS invalid username-password pair or user is disabled.", .shutsUntilMended),
    ("DENIED Redis is running in protected mode", .shutsUntilMended),
    ("ERR max number of clients reached", .shutsNewcomers),
    ("ERR max number of clients + cluster connections reached", .shutsNewcomers),
    (
      "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.", .refusesWrites
    ),
    ("MISCONF Errors writing to the AOF file: No space left on device", .refusesWrites),
    ("OOM command not allowed when used memory > 'maxmemory'.", .refusesWrites),
    ("READONLY You can't write against a read only replica.", .refusesWrites),
    ("NOREPLICAS Not enough good replicas to write.", .refusesWrites),
    ("TRYAGAIN Multiple keys request during rehashing of slot", .refusesForNow),
    ("NOPERM this user has no permissions to run the 'xread' command", .refusesThis),
    ("NOPERM No permissions to access a key", .refusesThis),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", .refusesThis),
    ("ERR unknown command 'XADD', with args beginning with: ", .refusesThis),
    ("unsupported command 'client'", .refused),
    ("ERR something new", .refused), ("", .refused), ("ERR", .refused),
    // The cause counts, not what it stopped.
    (
      "EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.",
      .refusesWrites
    ),
    ("EXECABORT Transaction discarded because of previous errors.", .refused),
    // As Redis 7.0 says it of a server that filled up while a script ran.
    (
      "ERR OOM command not allowed when used memory > 'maxmemory'. script: e7c9, on @user_script:242.", .refusesWrites
    ),
    ("ERR syntax error script: e7c9, on @user_script:1.", .refused),
    // As Redis 6.0, 6.2 and older ones say it.
    (
      "ERR Error running script (call to f_b545): @user_script:37: @user_script: 37: -READONLY You can't write",
      .refusesWrites
    ),
    ("ERR Error running script (call to f_6b1bf4): @user_script:1: -OOM command not allowed", .refusesWrites),
    ("ERR Error running script (call to f_6b1bf4): @user_script:2: WRONGTYPE Operation against a key", .refusesThis),
    ("ERR Error running script (call to f_6b1bf4): @user_script:1: user_script:1: attempt to index nil", .refused),
  ])
  func eachRefusalHasItsMeaning(words: String, meaning: RedisError.Meaning) {
    let error = RedisError.server(words)
    #expect(error.meaning == meaning)
    #expect(error.reason == .server)
    #expect(error.shuts == [.shutsForNow, .shutsUntilMended, .shutsNewcomers].contains(meaning))
  }

  @Test(arguments: [
    ("LOADING x", RedisError.Kind.retry), ("TRYAGAIN x", .retry), ("READONLY x", .retry),
    ("ERR max number of clients reached", .retry), ("NOAUTH x", .configuration), ("NOPERM x", .configuration),
    ("ERR unknown command 'X'", .configuration), ("MOVED 1 h:1", .configuration), ("WRONGTYPE x", .fault),
    ("NOSCRIPT x", .fault), ("ERR syntax error", .fault),
  ])
  func saysWhatToDo(words: String, kind: RedisError.Kind) {
    #expect(RedisError.server(words).kind == kind)
    #expect(RedisError.server(words).code == words.split(separator: " ").first.map(String.init))
  }

  @Test func whatTheServerDidNotSayIsNoRefusal() {
    for error in [RedisError.connectionLost, .timedOut, .overloaded, .stopped, .unexpectedReply("XADD")] {
      #expect(error.meaning == .unanswered && error.shuts && !error.wantsMaster)
    }
  }
}
