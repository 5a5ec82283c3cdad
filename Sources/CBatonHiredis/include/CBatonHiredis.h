#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// RESP2 replies as a flat array of nodes over one byte arena, read by hiredis' `redisReader`.
/// A guard in front of the reader sees every line and bulk boundary, so that nothing oversized is ever buffered.

typedef enum : uint8_t {
  BatonRESPString = 1,
  BatonRESPStatus,
  BatonRESPError,
  BatonRESPInteger,
  BatonRESPNull,
  BatonRESPArray,
  /// A string that was not kept, or all names and values of an entry: `value` is their bytes, `length` their number.
  BatonRESPElided,
} BatonRESPKind;

/// Nodes are in pre-order: an array's children follow it, up to `end`.
typedef struct {
  /// Arrays: children that the server sent; more than `length` where the reply was cut.
  int64_t value;
  /// Strings: where the bytes begin in the arena. Arrays: the index after the last descendant.
  uint32_t offset;
  /// Strings: bytes. Arrays: children that were kept.
  uint32_t length;
  BatonRESPKind kind;
  uint8_t depth;
} BatonRESPNode;

/// An entry of a stream is an array of an id and an array of strings, wherever it stands in a reply. It is kept whole,
/// or elided, or cut off; what comes after an elided one is kept. Its names and values lie side by side in the arena,
/// each with its length in front of it in 4 bytes, big-endian.
typedef struct {
  /// A longer bulk string is skipped as it arrives and becomes an elided node; so does the entry that it is in.
  uint64_t maxBulkBytes;
  /// An entry with more bytes in its names and values is elided.
  uint64_t maxEntryBytes;
  /// An entry with more pairs of name and value is elided.
  uint32_t maxEntryFields;
  /// Where its strings would have more bytes, a reply is cut: nothing more of it is kept.
  uint64_t maxReplyBytes;
  /// Nodes of one reply; where there would be more, it is cut.
  uint32_t maxElements;
  /// Arrays within arrays; more is a violation. hiredis allows 7.
  uint8_t maxDepth;
} BatonRESPLimits;

typedef struct {
  const BatonRESPNode *nodes;
  size_t nodeCount;
  const uint8_t *bytes;
  size_t byteCount;
  /// Its end was not kept, because it passed `maxReplyBytes` or `maxElements`.
  bool cut;
} BatonRESPReply;

typedef struct BatonRESPReader BatonRESPReader;

/// NULL when there is no memory.
BatonRESPReader *baton_resp_create(BatonRESPLimits limits);
void baton_resp_free(BatonRESPReader *reader);

/// False on a violation; it is final.
bool baton_resp_feed(BatonRESPReader *reader, const uint8_t *bytes, size_t count);

/// 1: `reply` is filled and holds until the next call; 0: more bytes are needed; -1: a violation, which is final.
int baton_resp_next(BatonRESPReader *reader, BatonRESPReply *reply);

/// What was violated, or an empty string.
const char *baton_resp_error(const BatonRESPReader *reader);
