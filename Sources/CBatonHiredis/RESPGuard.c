#include "RESPGuard.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/// Of a status, error, integer or array header.
static const size_t maxLineBytes = 65536;

/// The length of "$<length>\r\n", -1 for null, -2 where it is malformed.
static int64_t bulkLength(const char *header, size_t count) {
  const char *digits = header + 1, *end = header + count - 2;
  if (end - digits == 2 && digits[0] == '-' && digits[1] == '1') return -1;
  if (end == digits || end - digits > 18 || header[count - 2] != '\r') return -2;
  int64_t length = 0;
  for (; digits < end; digits++) {
    if (*digits < '0' || *digits > '9') return -2;
    length = length * 10 + (*digits - '0');
  }
  return length;
}

/// The end of a bulk string that is small enough and wholly there, or NULL.
static const char *wholeBulk(const char *at, const char *end, uint64_t maxBulkBytes) {
  uint64_t length = 0;
  const char *digit = at + 1;
  for (; digit < end && digit - at < 10 && *digit >= '0' && *digit <= '9'; digit++)
    length = length * 10 + (uint64_t)(*digit - '0');
  if (digit == at + 1 || length > maxBulkBytes || (uint64_t)(end - digit) < length + 4) return NULL;
  const char *tail = digit + 2 + length;
  return digit[0] == '\r' && digit[1] == '\n' && tail[0] == '\r' && tail[1] == '\n' ? tail + 2 : NULL;
}

const char *baton_guard_feed(
  BatonRESPGuard *guard, uint64_t maxBulkBytes, const char *bytes, size_t count, BatonGuardSink sink, void *context
) {
  static const char *const refused = "out of memory";
  const char *violation = NULL;
  const char *at = bytes, *end = bytes + count;
  // What lies between `pending` and `at` has been looked at and not yet been passed on.
  const char *pending = bytes;

  while (at < end) {
    switch (guard->state) {
    case BatonGuardType: {
      const char *next = *at == '$' ? wholeBulk(at, end, maxBulkBytes) : NULL;
      if (next) {
        at = next;
        break;
      }
      guard->headerBytes = guard->lineBytes = 0;
      guard->previous = 0;
      switch (*at) {
      case '$':
        guard->state = BatonGuardBulkHeader;
        break;
      case '*': case ':': case '+': case '-':
        guard->state = BatonGuardLine;
        at++;
        break;
      default:
        violation = "not a RESP2 reply";
        goto end;
      }
      break;
    }

    case BatonGuardLine: {
      const char *newline = at;
      while (newline < end && *newline != '\n') newline++;
      guard->lineBytes += (size_t)(newline - at);
      if (guard->lineBytes > maxLineBytes) {
        violation = "a line of more than 65536 bytes";
        goto end;
      }
      if (newline > at) guard->previous = newline[-1];
      at = newline;
      if (at == end) break;
      if (guard->previous != '\r') {
        violation = "a line end without carriage return";
        goto end;
      }
      at++;
      guard->state = BatonGuardType;
      break;
    }

    case BatonGuardBulkHeader: {
      // The header is held back until it is whole: it decides whether the string is passed on.
      const char *start = at;
      bool split = guard->headerBytes > 0, whole = false;
      while (at < end && !whole) {
        if (guard->headerBytes == sizeof guard->header) {
          at = start;
          violation = "a malformed bulk string length";
          goto end;
        }
        guard->header[guard->headerBytes++] = *at;
        whole = *at++ == '\n';
      }
      if (!whole) {
        if (start > pending && !sink(context, pending, (size_t)(start - pending))) return refused;
        pending = end;
        break;
      }
      int64_t length = guard->headerBytes < 4 ? -2 : bulkLength(guard->header, guard->headerBytes);
      if (length == -2) {
        at = start;
        violation = "a malformed bulk string length";
        goto end;
      }
      if (length >= 0 && (uint64_t)length > maxBulkBytes) {
        char note[48];
        int noteBytes = snprintf(note, sizeof note, "-ELIDED %" PRId64 "\r\n", length);
        if (start > pending && !sink(context, pending, (size_t)(start - pending))) return refused;
        if (!sink(context, note, (size_t)noteBytes)) return refused;
        pending = at;
        guard->state = BatonGuardSkip;
        guard->remaining = (uint64_t)length + 2;
        break;
      }
      if (split) {
        if (!sink(context, guard->header, guard->headerBytes)) return refused;
        pending = at;
      }
      guard->state = length < 0 ? BatonGuardType : BatonGuardBulk;
      guard->remaining = (uint64_t)(length + 2);
      break;
    }

    case BatonGuardBulk:
    case BatonGuardSkip: {
      size_t taken = (size_t)(end - at) < guard->remaining ? (size_t)(end - at) : (size_t)guard->remaining;
      bool skipped = guard->state == BatonGuardSkip;
      for (uint64_t i = guard->remaining > 2 ? guard->remaining - 2 : 0; i < taken; i++)
        if (at[i] != (guard->remaining - i == 2 ? '\r' : '\n')) {
          violation = "a bulk string that does not end with CRLF";
          goto end;
        }
      guard->remaining -= taken;
      at += taken;
      if (skipped) pending = at;
      if (guard->remaining == 0) guard->state = BatonGuardType;
      break;
    }
    }
  }
end:
  // The whole replies in front of a violation still count.
  return at > pending && !sink(context, pending, (size_t)(at - pending)) ? refused : violation;
}
