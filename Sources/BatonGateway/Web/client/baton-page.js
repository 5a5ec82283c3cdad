// A page's life, and what a page has for a client: a network, a clock, dice, storage, a place for errors.

/**
 * Tells what happens to the page, until `signal` is aborted.
 * @param {{online(): void, offline(): void, wake(): void, hide(): void, leave(): void, back(): void}} told
 */
export function watchPage({ window, document }, signal, told) {
  const on = (target, name, then) => target?.addEventListener?.(name, then, { signal });
  on(window, 'online', told.online);
  on(window, 'offline', told.offline);
  on(window, 'pagehide', () => {
    told.hide();
    told.leave(); // an open socket would keep the page out of the back/forward cache
  });
  on(window, 'pageshow', told.back);
  on(document, 'freeze', told.hide);
  on(document, 'resume', told.wake);
  on(document, 'visibilitychange', () => (document.visibilityState === 'visible' ? told.wake() : told.hide()));
}

/** All of March 2022. What is newer is used only where it is there. */
export const oldest = 'Chromium 98, Firefox 97 or Safari 15.4';

export function isTooOld() {
  return typeof Array.prototype.at !== 'function' || !('reason' in AbortSignal.prototype);
}

/** Mixed content (W3C): loopback is let through by some browsers. @param {string} url */
export function isBlockable(url) {
  const here = globalThis.location;
  if (here?.protocol !== 'https:') return false;
  const { protocol, hostname } = new URL(url || here.origin, here.href);
  return /^(http|ws):$/.test(protocol) && !/^(localhost|127\.0\.0\.1|\[::1\]|.*\.localhost)$/.test(hostname);
}

export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Half a surrogate pair is no text: JSON would carry it as an escape that no gateway can decode. */
export function wellFormed(text) {
  if (typeof text !== 'string') return text;
  if (typeof text.toWellFormed === 'function') return text.toWellFormed();
  return text.replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]|[\uD800-\uDFFF]/g, (match) => (match.length === 2 ? match : '\uFFFD'));
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
