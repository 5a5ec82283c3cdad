import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// One of a store's connections, by what it is for.
package enum StoreConnection: String, Sendable, CaseIterable {
  case notices, tail, history, commands
}

/// What somebody who watches a store is told, for logs and metrics; always on the store's event loop.
package enum StoreEvent: Sendable {
  /// The number of sessions that are followed has changed.
  case following(sessions: Int)
  /// Where the cluster's masters are, or the Sentinels' one.
  case cluster(ClusterWatch.Event)
  case sentinel(SentinelWatch.Event)
  case up(StoreConnection)
  /// A connection was lost, or could not be made.
  case disconnected(StoreConnection, RedisLink.Failure)
  /// How changes are learnt from here on, and why where Redis said so.
  case wakeupChanged(Tail.Source, RedisError?)
  /// Devices can attach, and what they post can be written.
  case ready
  /// They can't since then.
  case unready(since: NIODeadline, why: String)
  /// The tail read entries, the newest of them with this id.
  case entriesRead(Int, newest: EntryID)
  case misshapenFields(Int)
  /// A read found what no notice had announced so far.
  case unannounced
  case answered(StoreConnection, after: TimeAmount)
  case refused(StoreConnection, SessionName?, RedisError)
  case continuityBroken(SessionName, Reset)
  case wrongType(SessionName)
  case producerLost(SessionName, response: String, EntryID)
}

package typealias SessionUpdate = (session: SessionName, update: TailUpdate)

/// Who is told what happens to the sessions that it follows; always on the store's event loop.
package protocol StoreSubscriber: AnyObject {
  /// All that one turn brought, in order.
  func updated(_ updates: [SessionUpdate])
}
