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
  bool overrun;
};
