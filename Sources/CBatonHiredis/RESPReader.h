#pragma once

#include "CBatonHiredis.h"
#include "RESPGuard.h"
#include <hiredis/hiredis.h>

struct BatonRESPReader {
  redisReader *hiredis;
  BatonRESPLimits limits;
  BatonRESPGuard guard;
  const char *error;

  BatonRESPNode *nodes;
  size_t nodeCount, nodeCapacity;
  uint8_t *bytes;
  size_t byteCount, byteCapacity;
  bool cut;

  /// The node of the names and values that are being read; 0 outside of an entry.
  size_t entry;
  uint64_t entryBytes;
  /// Where they begin in the arena.
  size_t entryStart;
  /// Bytes of the arena that are lengths of strings, and how many there were at `entryStart`.
  size_t framing, entryFraming;
};
