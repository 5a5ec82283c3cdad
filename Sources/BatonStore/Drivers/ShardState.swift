import BatonProtocol
import BatonRedis

/// What a store's drivers have to know of the cluster that its server is a part of; of none, where it is alone.
final class ShardState {
  let isShard: Bool
  /// Keys with this tag belong to the server, and to no session: none has such a name.
  var tag: String
  /// Sessions on their way to this server: it answers for them after `ASKING` only. True where the absence of their
  /// stream is to be believed, as the server that they come from does not have it either.
  var asking: [SessionName: Bool] = [:]
  /// A session is elsewhere.
  var redirected: (SessionName, RedisError.Redirection) -> Void = { _, _ in }

  /// Some tag keeps the keys of a step in one slot, also before one of the server's own is known.
  init(isShard: Bool) { (self.isShard, tag) = (isShard, isShard ? "!" : "") }

  func probeKey(prefix: String) -> String { "\(prefix){\(tag)}" }

  /// Where the refusal of a read leads, if it leads elsewhere.
  func redirection(_ error: RedisError) -> RedisError.Redirection? { isShard ? error.redirection : nil }

  /// Whether a read that found no stream proves nothing: the stream may be where it comes from.
  func doubts(_ session: SessionName, exists: Bool?) -> Bool { exists == false && asking[session] == false }
}
