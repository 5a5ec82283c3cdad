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
  /// A string that was not kept; `value` is its length.
  BatonRESPElided,
} BatonRESPKind;

/// Nodes are in pre-order: an array's children follow it, up to `end`.
typedef struct {
  int64_t value;
  /// Strings: where the bytes begin in the arena. Arrays: the index after the last descendant.
  uint32_t offset;
  /// Strings: bytes. Arrays: children.
  uint32_t length;
  BatonRESPKind kind;
  uint8_t depth;
} BatonRESPNode;

typedef struct {
  /// A longer bulk string is skipped as it arrives and becomes an elided node.
  uint64_t maxBulkBytes;
  /// Beyond it a reply's strings longer than 48 bytes become elided nodes; beyond twice as much, all do.
  uint64_t maxReplyBytes;
  /// Nodes of one reply; more is a violation.
  uint32_t maxElements;
  /// Arrays within arrays; more is a violation. hiredis allows 7.
  uint8_t maxDepth;
} BatonRESPLimits;

typedef struct {
  const BatonRESPNode *nodes;
  size_t nodeCount;
  const uint8_t *bytes;
  size_t byteCount;
  /// Strings were elided because the whole reply passed `maxReplyBytes`.
  bool overrun;
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
