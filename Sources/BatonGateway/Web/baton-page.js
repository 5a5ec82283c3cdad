// What a page has for a client: storage, a clock, dice, a place for errors.

const maxSnapshot = 1024 * 1024; // bytes, of 5 MiB that a page may keep in sessionStorage

/** A tab's own memory, gone with the tab. It keeps the text with the offset, or nothing where the text is too long. */
export function pageStore(storage, session, device = '') {
  const key = `baton:${session} ${device}`;
  return {
    load: () => JSON.parse(storage?.getItem(key) ?? 'null') ?? undefined,
    save(snapshot) {
      const text = JSON.stringify(snapshot);
      if (text.length * 2 <= maxSnapshot) storage?.setItem(key, text);
      else storage?.removeItem(key);
    },
  };
}

export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export function reportError(error) {
  if (globalThis.reportError) globalThis.reportError(error);
  else console.error(error);
}

export function realPlatform() {
  return {
    WebSocket: globalThis.WebSocket,
    fetch: (...request) => globalThis.fetch(...request),
    now: () => performance.now(),
    random: Math.random,
    setTimeout: (then, ms) => globalThis.setTimeout(then, ms),
    clearTimeout: (timer) => globalThis.clearTimeout(timer),
    window: globalThis.window,
    document: globalThis.document,
    sessionStorage: (() => {
      try {
        return globalThis.sessionStorage; // throws where the browser forbids it
      } catch {}
    })(),
  };
}
