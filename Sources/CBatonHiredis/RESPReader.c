#include "RESPReader.h"

#include <stdlib.h>
#include <string.h>

/// Longer strings are dropped first when a reply is too large; a stream id has at most 41 bytes.
static const size_t keptOnOverrun = 48;

#if HIREDIS_MAJOR >= 1
typedef size_t ArrayCount;
#else
typedef int ArrayCount;
#endif

static BatonRESPReader *readerOf(const redisReadTask *task) { return task->privdata; }

/// hiredis keeps objects as pointers that may not be NULL: ours are indices, counted from 1.
static void *object(size_t index) { return (void *)(uintptr_t)(index + 1); }

/// An array ends where its last descendant does.
static void close(BatonRESPReader *reader, const redisReadTask *task) {
  while (task->parent && task->idx == (int)task->parent->elements - 1) {
    task = task->parent;
    reader->nodes[(uintptr_t)task->obj - 1].offset = (uint32_t)reader->nodeCount;
  }
}

static BatonRESPNode *append(BatonRESPReader *reader, const redisReadTask *task, BatonRESPKind kind) {
  if (!task->parent) {
    reader->nodeCount = reader->byteCount = 0;
    reader->overrun = false;
  }
  if (reader->nodeCount >= reader->limits.maxElements) {
    reader->error = "a reply of too many elements";
    return NULL;
  }
  if (reader->nodeCount == reader->nodeCapacity) {
    size_t capacity = reader->nodeCapacity ? reader->nodeCapacity * 2 : 64;
    BatonRESPNode *nodes = realloc(reader->nodes, capacity * sizeof *nodes);
    if (!nodes) return NULL;
    reader->nodes = nodes;
    reader->nodeCapacity = capacity;
  }
  BatonRESPNode *node = &reader->nodes[reader->nodeCount++];
  *node = (BatonRESPNode){.kind = kind};
  if (task->parent) node->depth = reader->nodes[(uintptr_t)task->parent->obj - 1].depth + 1;
  return node;
}

/// False when there is no memory.
static bool store(BatonRESPReader *reader, BatonRESPNode *node, const char *string, size_t length) {
  size_t room = (size_t)reader->limits.maxReplyBytes, total = reader->byteCount + length;
  if (total > room) reader->overrun = true;
  if (reader->overrun && (length > keptOnOverrun || total > room * 2)) {
    node->kind = BatonRESPElided;
    node->value = (int64_t)length;
    return true;
  }
  if (total > reader->byteCapacity) {
    size_t capacity = reader->byteCapacity ? reader->byteCapacity : 1024;
    while (capacity < total) capacity *= 2;
    uint8_t *bytes = realloc(reader->bytes, capacity);
    if (!bytes) return false;
    reader->bytes = bytes;
    reader->byteCapacity = capacity;
  }
  memcpy(reader->bytes + reader->byteCount, string, length);
  node->offset = (uint32_t)reader->byteCount;
  node->length = (uint32_t)length;
  reader->byteCount = total;
  return true;
}

static void *createString(const redisReadTask *task, char *string, size_t length) {
  static const char elided[] = "ELIDED ";
  BatonRESPReader *reader = readerOf(task);
  BatonRESPKind kind = task->type == REDIS_REPLY_ERROR ? BatonRESPError
    : task->type == REDIS_REPLY_STATUS ? BatonRESPStatus : BatonRESPString;
  BatonRESPNode *node = append(reader, task, kind);
  if (!node) return NULL;
  if (kind == BatonRESPError && length > sizeof elided - 1 && !memcmp(string, elided, sizeof elided - 1)) {
    node->kind = BatonRESPElided;
    // hiredis has left the line's CRLF behind the digits.
    node->value = strtoll(string + sizeof elided - 1, NULL, 10);
  } else if (!store(reader, node, string, length)) {
    return NULL;
  }
  close(reader, task);
  return object(reader->nodeCount - 1);
}

static void *createArray(const redisReadTask *task, ArrayCount elements) {
  BatonRESPReader *reader = readerOf(task);
  BatonRESPNode *node = append(reader, task, BatonRESPArray);
  if (!node) return NULL;
  size_t index = reader->nodeCount - 1;
  if ((uint64_t)elements > reader->limits.maxElements - reader->nodeCount) {
    reader->error = "a reply of too many elements";
    return NULL;
  }
  if (node->depth >= reader->limits.maxDepth) {
    reader->error = "arrays nested too deeply";
    return NULL;
  }
  node->length = (uint32_t)elements;
  node->offset = (uint32_t)reader->nodeCount;
  if (elements == 0) close(reader, task);
  return object(index);
}

static void *createInteger(const redisReadTask *task, long long value) {
  BatonRESPNode *node = append(readerOf(task), task, BatonRESPInteger);
  if (!node) return NULL;
  node->value = value;
  close(readerOf(task), task);
  return object(readerOf(task)->nodeCount - 1);
}

static void *createNil(const redisReadTask *task) {
  if (!append(readerOf(task), task, BatonRESPNull)) return NULL;
  close(readerOf(task), task);
  return object(readerOf(task)->nodeCount - 1);
}

static void freeObject(void *object) { (void)object; }

static redisReplyObjectFunctions functions = {
  .createString = createString,
  .createArray = createArray,
  .createInteger = createInteger,
  .createNil = createNil,
  .freeObject = freeObject,
};

BatonRESPReader *baton_resp_create(BatonRESPLimits limits) {
  BatonRESPReader *reader = calloc(1, sizeof *reader);
  if (!reader) return NULL;
  reader->limits = limits;
  if (reader->limits.maxReplyBytes > UINT32_MAX / 2) reader->limits.maxReplyBytes = UINT32_MAX / 2;
  reader->hiredis = redisReaderCreateWithFunctions(&functions);
  if (!reader->hiredis) {
    free(reader);
    return NULL;
  }
  reader->hiredis->privdata = reader;
  return reader;
}

void baton_resp_free(BatonRESPReader *reader) {
  if (!reader) return;
  redisReaderFree(reader->hiredis);
  free(reader->nodes);
  free(reader->bytes);
  free(reader);
}

static bool parse(void *context, const char *bytes, size_t count) {
  return redisReaderFeed(((BatonRESPReader *)context)->hiredis, bytes, count) == REDIS_OK;
}

bool baton_resp_feed(BatonRESPReader *reader, const uint8_t *bytes, size_t count) {
  if (reader->error) return false;
  reader->error = baton_guard_feed(
    &reader->guard, reader->limits.maxBulkBytes, (const char *)bytes, count, parse, reader);
  return !reader->error;
}

int baton_resp_next(BatonRESPReader *reader, BatonRESPReply *reply) {
  void *root = NULL;
  // A violation of the guard ends the connection only after the whole replies in front of it.
  if (redisReaderGetReply(reader->hiredis, &root) != REDIS_OK) {
    if (!reader->error) reader->error = reader->hiredis->errstr;
    return -1;
  }
  if (!root) return reader->error ? -1 : 0;
  *reply = (BatonRESPReply){
    reader->nodes, reader->nodeCount, reader->bytes, reader->byteCount, reader->overrun,
  };
  return 1;
}

const char *baton_resp_error(const BatonRESPReader *reader) { return reader->error ? reader->error : ""; }
