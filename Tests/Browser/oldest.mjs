// Takes away what the oldest browsers that are supported (Chromium 98, Firefox 97, Safari 15.4) do not have.

const newer = [
  [String.prototype, 'isWellFormed', 'toWellFormed'],
  [Array.prototype, 'findLast', 'findLastIndex', 'toReversed', 'toSpliced', 'with'],
  [Array, 'fromAsync'],
  [Object, 'groupBy'],
  [Map, 'groupBy'],
  [Promise, 'withResolvers', 'try'],
  [AbortSignal, 'any', 'timeout'],
  [AbortSignal.prototype, 'throwIfAborted'],
  [Set.prototype, 'union', 'intersection', 'difference', 'isSubsetOf', 'isSupersetOf'],
  [ReadableStream, 'from'],
  [ReadableStream.prototype, Symbol.asyncIterator, 'values'],
  [URL, 'canParse', 'parse'],
  [Iterator_(), 'map', 'filter', 'take', 'drop', 'flatMap', 'reduce', 'toArray', 'forEach', 'some', 'every', 'find'],
  [globalThis, 'structuredClone'],
];

function Iterator_() {
  return Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
}

for (const [owner, ...names] of newer) for (const name of names) delete owner[name];
