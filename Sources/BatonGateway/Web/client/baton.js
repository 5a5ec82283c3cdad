// Baton in the browser. It goes on by itself across lost connections, gateways, sleep and networks:
//
//   import { attach, textInto } from 'https://gateway.example/baton.js';
//   const chat = attach('https://gateway.example', 'chat-42', { ontext: textInto(document.getElementById('answer')) });
//
// All that an app needs is exported here. A session (baton-session.js) joins what decides (baton-machine.js) and what is
// shown (baton-text.js) to the wires (baton-connector.js, baton-wire.js), the page's life (baton-page.js) and what outlives
// it (baton-keeper.js). Nothing is shared between tabs: each is a device of its own.
//
// Apache-2.0. A page that imports these files from one gateway does not start without it: they may be copied to where the page
// comes from, all of one version, and bundled; gateways serve them as one file, too: /baton.bundle.js.

import { Session } from './baton-session.js';

/** Of these files; a gateway of another version speaks the same protocol. */
export const version = '0.9.0';

export { BatonError } from './baton-error.js';
export { compareOffsets } from './baton-text.js';
export { textInto } from './baton-view.js';

/**
 * Attaches to a session; stays attached until `close()`, an end (`until: 'end'`, `response`) or a refusal.
 * @param {string|string[]} urls Gateways to take turns with; '' is the page's own origin.
 * @param {string} session 1 to 128 characters out of A-Z a-z 0-9 . _ ~ : @ -
 * @param {import('./baton.js').Options} [options]
 * @throws {TypeError} if the session's name, or a URL, is not one
 */
export function attach(urls, session, options = {}) {
  return new Session([urls].flat(), session, options);
}
