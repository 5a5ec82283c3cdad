#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Follows lines and bulk strings of a RESP2 byte stream and passes them on, but for oversized bulk strings: those
/// become `-ELIDED <length>\r\n`.
typedef struct {
  enum { BatonGuardType, BatonGuardLine, BatonGuardBulkHeader, BatonGuardBulk, BatonGuardSkip } state;
  /// Of the bulk string with its CRLF.
  uint64_t remaining;
  size_t lineBytes;
  char previous;
  char header[32];
  size_t headerBytes;
} BatonRESPGuard;

/// Takes bytes that may be parsed; false stops the guard.
typedef bool (*BatonGuardSink)(void *context, const char *bytes, size_t count);

/// NULL, or what was violated.
const char *baton_guard_feed(
  BatonRESPGuard *guard, uint64_t maxBulkBytes, const char *bytes, size_t count, BatonGuardSink sink, void *context);
