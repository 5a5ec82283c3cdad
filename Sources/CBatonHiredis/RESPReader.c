#include "RESPReader.h"

#include <stdlib.h>
#include <string.h>

/// An arena that has grown beyond it for one reply is given back before the next.
static const size_t keptCapacity = 256 << 10;

#if HIREDIS_MAJOR >= 1
typedef size_t ArrayCount;
#else
typedef int ArrayCount;
#endif

static BatonRESPReader *readerOf(const redisReadTask *task) { return task->privdata; }

/// hiredis keeps objects as pointers that may not be NULL: ours are indices, counted from 1.
static void *object(size_t index) { return (void *)(uintptr_t)(index + 1); }
static size_t indexOf(const redisReadTask *task) { return (uintptr_t)task->obj - 1; }

/// Stands for what is not kept.
#define DROPPED ((void *)UINTPTR_MAX)

static bool isDropped(const redisReadTask *task) { return task->obj == DROPPED; }

/// An array ends where its last descendant does.
static void *ended(BatonRESPReader *reader, const redisReadTask *task, void *result) {
  while (!reader->cut && task->parent && task->idx == (int)task->parent->elements - 1) {
    task = task->parent;
    if (!isDropped(task)) reader->nodes[indexOf(task)].offset = (uint32_t)reader->nodeCount;
  }
  return result;
}

/// Whether the task is a name or value of the current entry.
static bool isInEntry(const BatonRESPReader *reader, const redisReadTask *task) {
  return reader->entry && task->parent && indexOf(task->parent) == reader->entry;
}

/// Whether what is no string stands in an entry that is not kept. One that has been kept so far is no entry then.
static bool isInElided(BatonRESPReader *reader, const redisReadTask *task) {
  if (!isInEntry(reader, task)) return false;
  if (reader->nodes[reader->entry].kind == BatonRESPElided) return true;
  reader->entry = 0;
  return false;
}

/// From here on nothing of this reply is kept: neither this, nor the entry or pair that would lack it.
static void *cut(BatonRESPReader *reader, const redisReadTask *task, bool isString) {
  const redisReadTask *parent = task->parent;
  BatonRESPNode *nodes = reader->nodes;
  if (isInEntry(reader, task)) {
    size_t entry = indexOf(parent->parent);
    parent = parent->parent->parent;
    isString = false;
    reader->nodeCount = entry;
    if (parent) {
      nodes[indexOf(parent)].length--;
    } else {
      // A reply has at least its own node.
      nodes[0].length = 0;
      nodes[0].offset = (uint32_t)(reader->nodeCount = 1);
    }
  }
  while (parent && parent->parent && parent->elements == 2) {
    size_t index = indexOf(parent);
    bool lacks = nodes[index].length == 0 ? isString : nodes[index + 1].kind != BatonRESPArray;
    if (nodes[index].length == 2 || !lacks) break;
    reader->nodeCount = index;
    isString = false;
    parent = parent->parent;
    nodes[indexOf(parent)].length--;
  }
  for (; parent; parent = parent->parent) nodes[indexOf(parent)].offset = (uint32_t)reader->nodeCount;
  reader->cut = true;
  return DROPPED;
}

static void begin(BatonRESPReader *reader) {
  reader->nodeCount = reader->byteCount = reader->framing = reader->entry = 0;
  reader->cut = false;
  if (reader->byteCapacity > keptCapacity) {
    free(reader->bytes);
    reader->bytes = NULL;
    reader->byteCapacity = 0;
  }
  if (reader->nodeCapacity * sizeof *reader->nodes > keptCapacity) {
    free(reader->nodes);
    reader->nodes = NULL;
    reader->nodeCapacity = 0;
  }
}

/// Whether nothing of this task is kept.
static bool isSkipped(BatonRESPReader *reader, const redisReadTask *task) {
  if (!task->parent) begin(reader);
  return reader->cut || (task->parent && isDropped(task->parent));
}

/// The new node's index; SIZE_MAX when there is no memory.
static size_t append(BatonRESPReader *reader, const redisReadTask *task, BatonRESPKind kind) {
  if (reader->nodeCount == reader->nodeCapacity) {
    size_t capacity = reader->nodeCapacity ? reader->nodeCapacity * 2 : 64;
    BatonRESPNode *nodes = realloc(reader->nodes, capacity * sizeof *nodes);
    if (!nodes) return SIZE_MAX;
    reader->nodes = nodes;
    reader->nodeCapacity = capacity;
  }
  size_t index = reader->nodeCount++;
  reader->nodes[index] = (BatonRESPNode){.kind = kind};
  if (task->parent) {
    BatonRESPNode *parent = &reader->nodes[indexOf(task->parent)];
    parent->length++;
    reader->nodes[index].depth = parent->depth + 1;
  }
  return index;
}

static bool isFull(const BatonRESPReader *reader) { return reader->nodeCount >= reader->limits.maxElements; }

/// With its length in front of it, big-endian, where `isFramed`. False when there is no memory.
static bool store(BatonRESPReader *reader, BatonRESPNode *node, const char *string, size_t length, bool isFramed) {
  size_t total = reader->byteCount + length + (isFramed ? 4 : 0);
  if (total > reader->byteCapacity) {
    size_t capacity = reader->byteCapacity ? reader->byteCapacity : 1024;
    while (capacity < total) capacity *= 2;
    uint8_t *bytes = realloc(reader->bytes, capacity);
    if (!bytes) return false;
    reader->bytes = bytes;
    reader->byteCapacity = capacity;
  }
  uint8_t *to = reader->bytes + reader->byteCount;
  if (isFramed) {
    for (int shift = 24; shift >= 0; shift -= 8) *to++ = (uint8_t)(length >> shift);
    reader->framing += 4;
  }
  if (length) memcpy(to, string, length);
  node->offset = (uint32_t)(to - reader->bytes);
  node->length = (uint32_t)length;
  reader->byteCount = total;
  return true;
}

/// Takes a string of the current entry into account. False where the entry is not kept.
static bool keepsEntry(BatonRESPReader *reader, const redisReadTask *task, size_t length, bool isElided) {
  BatonRESPNode *node = &reader->nodes[reader->entry];
  size_t elements = (size_t)task->parent->elements;
  if (task->idx == 0) {
    reader->entryBytes = 0;
    reader->entryStart = reader->byteCount;
    reader->entryFraming = reader->framing;
  }
  reader->entryBytes += length;
  if (node->kind == BatonRESPArray) {
    if (!isElided && reader->entryBytes <= reader->limits.maxEntryBytes
      && elements / 2 <= reader->limits.maxEntryFields) return true;
    node->kind = BatonRESPElided;
    node->length = elements > UINT32_MAX ? UINT32_MAX : (uint32_t)elements;
    reader->nodeCount = reader->entry + 1;
    reader->byteCount = reader->entryStart;
    reader->framing = reader->entryFraming;
  }
  node->value = (int64_t)reader->entryBytes;
  return false;
}

static void *createString(const redisReadTask *task, char *string, size_t length) {
  static const char note[] = "ELIDED ";
  BatonRESPReader *reader = readerOf(task);
  if (isSkipped(reader, task)) return ended(reader, task, DROPPED);
  BatonRESPKind kind = task->type == REDIS_REPLY_ERROR ? BatonRESPError
    : task->type == REDIS_REPLY_STATUS ? BatonRESPStatus : BatonRESPString;
  if (kind == BatonRESPError && length > sizeof note - 1 && !memcmp(string, note, sizeof note - 1)) {
    kind = BatonRESPElided;
    // hiredis has left the line's CRLF behind the digits.
    length = (size_t)strtoull(string + sizeof note - 1, NULL, 10);
  }
  bool isElided = kind == BatonRESPElided;
  bool isKept = kind != BatonRESPString && !isElided ? !isInElided(reader, task)
    : !isInEntry(reader, task) || keepsEntry(reader, task, length, isElided);
  if (!isKept) return ended(reader, task, DROPPED);
  bool fits = isElided || reader->byteCount - reader->framing + length <= reader->limits.maxReplyBytes;
  if (task->parent && (!fits || isFull(reader))) return cut(reader, task, true);
  size_t index = append(reader, task, fits ? kind : BatonRESPElided);
  if (index == SIZE_MAX) return NULL;
  if (fits && !isElided) {
    if (!store(reader, &reader->nodes[index], string, length, isInEntry(reader, task))) return NULL;
  } else {
    reader->nodes[index].value = (int64_t)length;
    reader->nodes[index].length = 1;
  }
  return ended(reader, task, object(index));
}

/// Whether the node is a stream entry's id, `<ms>-<seq>`.
static bool isID(const BatonRESPReader *reader, const BatonRESPNode *node) {
  if (node->kind != BatonRESPString || node->length < 3 || node->length > 41) return false;
  size_t dashes = 0;
  for (const uint8_t *at = reader->bytes + node->offset, *end = at + node->length; at < end; at++) {
    if (*at == '-') dashes++;
    else if (*at < '0' || *at > '9') return false;
  }
  return dashes == 1;
}

static void *createArray(const redisReadTask *task, ArrayCount elements) {
  BatonRESPReader *reader = readerOf(task);
  const redisReadTask *parent = task->parent;
  if (isSkipped(reader, task)) return elements ? DROPPED : ended(reader, task, DROPPED);
  if (isInElided(reader, task)) return elements ? DROPPED : ended(reader, task, DROPPED);
  if (isFull(reader)) return cut(reader, task, false);
  size_t index = append(reader, task, BatonRESPArray);
  if (index == SIZE_MAX) return NULL;
  BatonRESPNode *node = &reader->nodes[index];
  if (node->depth >= reader->limits.maxDepth) {
    reader->error = "arrays nested too deeply";
    return NULL;
  }
  node->value = (int64_t)elements;
  node->offset = (uint32_t)reader->nodeCount;
  if (elements == 0) return ended(reader, task, object(index));
  if (parent && parent->elements == 2 && task->idx == 1 && isID(reader, &reader->nodes[indexOf(parent) + 1]))
    reader->entry = index;
  return object(index);
}

static void *createNumber(const redisReadTask *task, BatonRESPKind kind, long long value) {
  BatonRESPReader *reader = readerOf(task);
  if (isSkipped(reader, task)) return ended(reader, task, DROPPED);
  if (isInElided(reader, task)) return ended(reader, task, DROPPED);
  if (isFull(reader)) return cut(reader, task, true);
  size_t index = append(reader, task, kind);
  if (index == SIZE_MAX) return NULL;
  reader->nodes[index].value = value;
  return ended(reader, task, object(index));
}

static void *createInteger(const redisReadTask *task, long long value) {
  return createNumber(task, BatonRESPInteger, value);
}

static void *createNil(const redisReadTask *task) { return createNumber(task, BatonRESPNull, 0); }

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
  // XINFO's first and last entry in front of a read, and room for the read's first: every reply brings something.
  uint64_t entry = reader->limits.maxEntryBytes, nodes = (uint64_t)reader->limits.maxEntryFields * 2 + 4;
  if (entry > UINT32_MAX / 8) entry = reader->limits.maxEntryBytes = UINT32_MAX / 8;
  if (reader->limits.maxReplyBytes < entry * 4) reader->limits.maxReplyBytes = entry * 4;
  if (nodes * 4 > UINT32_MAX) nodes = UINT32_MAX / 4;
  if (reader->limits.maxElements < nodes * 4) reader->limits.maxElements = (uint32_t)(nodes * 4);
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
    reader->nodes, reader->nodeCount, reader->bytes, reader->byteCount, reader->cut,
  };
  return 1;
}

const char *baton_resp_error(const BatonRESPReader *reader) { return reader->error ? reader->error : ""; }
