// One device: shows a session as it comes, lets a person answer back, and makes trouble on request.
// All there is to know about using Baton in a page is in `attach` and its callbacks below.

import { attach, compareOffsets, textInto } from './baton.js';
import { Journal } from './demo-journal.js';
import { Cable } from './demo-cable.js';

const $ = (id) => document.getElementById(id);
const address = new URLSearchParams(location.search);
const sessionName = address.get('session') ?? 'demo';
const name = address.get('name') ?? 'phone';
const kept = `baton-demo ${sessionName} ${name}`;
const cable = new Cable();
const journal = new Journal(name, tell);
const keptOrder = [];
/** How the text of each answer is shown, by response. */
const textOf = new Map();

addEventListener('error', ({ error, message }) => complain(error?.message ?? message));

$('name').textContent = document.title = name.replaceAll('-', ' ');

const gateways = await findGateways();
const hasModel = gateways[0].name !== undefined;
const session = attach(gateways.map(({ url }) => url), sessionName, {
  token: new URLSearchParams(location.hash.slice(1)).get('token') ?? undefined,
  device: name,
  platform: cable.platform, // only here: so that the cable can be pulled
  store: { load, save, forget: () => sessionStorage.removeItem(kept) }, // a reload goes on where it was

  ontext(text, response, added) {
    show(response);
    textOf.get(response)?.(text, response, added);
  },
  onentry(entry) {
    if (entry.event === 'input') addQuestion(entry);
    else if (entry.response) show(entry.response);
    journal.received(entry);
  },
  onreset(reset) {
    for (const question of $('talk').querySelectorAll('.question')) {
      if (reset.from === '0' || compareOffsets(question.dataset.id, reset.from) > 0) question.remove();
    }
    journal.reset(reset);
  },
  onskipped: ({ bytes }) => journal.note(`an entry of ${bytes.toLocaleString()} bytes is too large and was left out`),
  onattached({ node }) {
    for (const item of keptOrder.splice(0)) item.response ? newAnswer(item.response) : addQuestion(item);
    journal.attached(node, session);
  },
  onlive: () => journal.live(),
  onstate(state) {
    showStatus(state);
    journal.state(state);
  },
  onend: ({ reason, detail }) => reason === 'rejected' && complain(detail ?? 'The gateway refused this session.'),
});

/** To the desk, if this device stands on one. */
function tell(message) {
  parent.postMessage({ device: name, ...message }, location.origin);
  if (message.log) $('note').textContent = message.log;
}

/** The gateways that `baton dev` runs, as this device can reach them; without it the one that served this page. */
async function findGateways() {
  try {
    const answer = await fetch('dev/state', { cache: 'no-store' });
    const { gateways } = await answer.json();
    const first = Number(address.get('first') ?? 0) % gateways.length;
    return [...gateways.slice(first), ...gateways.slice(0, first)].map(({ name, url }) => {
      const reachable = new URL(url);
      if (['127.0.0.1', 'localhost', '[::1]'].includes(reachable.hostname)) reachable.hostname = location.hostname;
      return { name, url: reachable.href };
    });
  } catch {
    return [{ name: undefined, url: new URL('.', location.href).href.split(/[?#]/)[0] }];
  }
}

// What is kept in the tab: the place, the answers before it, and the questions between them

function save(snapshot) {
  const order = [...$('talk').children].map(({ dataset, textContent }) =>
    dataset.response ? { response: dataset.response } : { id: dataset.id, data: textContent },
  );
  sessionStorage.setItem(kept, JSON.stringify({ ...snapshot, order }));
}

function load() {
  const snapshot = JSON.parse(sessionStorage.getItem(kept) ?? 'null');
  if (!Array.isArray(snapshot?.responses)) return undefined; // kept by another version
  keptOrder.push(...(snapshot.order ?? [])); // shown once a gateway has let this person in
  return snapshot;
}

// What is shown

const dirty = new Set();

function show(response) {
  if (session.responses.has(response) && !document.getElementById(`answer-${response}`)) newAnswer(response);
  if (dirty.size === 0) requestAnimationFrame(paint);
  dirty.add(response);
}

function paint() {
  const atEnd = $('talk').scrollHeight - $('talk').scrollTop - $('talk').clientHeight < 40;
  for (const name of dirty) {
    const { state } = session.responses.get(name) ?? {};
    if (state === undefined) {
      document.getElementById(`answer-${name}`)?.remove();
      textOf.delete(name);
    } else {
      paintAnswer(document.getElementById(`answer-${name}`), state);
    }
  }
  dirty.clear();
  if (atEnd) $('talk').scrollTop = $('talk').scrollHeight;
  $('stop').hidden = openResponse() === undefined;
  $('text').placeholder = openResponse() || !hasModel ? 'Say more' : 'Ask the model';
  $('count').textContent = journal.count ? `${journal.count.toLocaleString()} tokens` : '';
}

function paintAnswer(element, state) {
  element.dataset.state = state;
  element.setAttribute('aria-busy', state === 'open');
  const ending = { error: 'The answer broke off.', cancelled: 'Stopped.' }[state] ?? '';
  element.querySelector('footer').textContent = ending;
}

function newAnswer(name) {
  const element = document.createElement('article');
  element.id = `answer-${name}`;
  element.dataset.response = name;
  element.className = 'answer';
  const text = document.createElement('p');
  textOf.set(name, textInto(text));
  element.append(text, document.createElement('footer'));
  $('talk').append(element);
  return element;
}

function addQuestion({ id, data }) {
  const element = document.createElement('p');
  element.className = 'question';
  element.dataset.id = id;
  element.textContent = data ?? '';
  $('talk').append(element);
  $('talk').scrollTop = $('talk').scrollHeight;
}

function showStatus(state) {
  const node = session.node ? ` on ${session.node}` : '';
  const words = {
    connecting: 'connecting …',
    behind: `catching up${node} …`,
    live: `live${node}${session.transport === 'sse' ? ' (server-sent events)' : ''}`,
    stalled: 'Redis is out of reach, waiting …',
    waiting: cable.isCut ? 'cut off' : 'connection lost, trying again …',
    unauthorized: 'asking for a new token …',
    suspended: 'put aside',
    ended: 'ended',
  };
  $('status').textContent = words[state];
  $('status').dataset.state = cable.isCut ? 'cut' : state;
}

function complain(problem) {
  $('problem').textContent = problem;
}

// What a person says

function openResponse() {
  return [...session.responses].reverse().find(([name, { state }]) => name !== '' && state === 'open')?.[0];
}

$('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  complain('');
  const text = $('text').value.trim();
  $('text').value = '';
  try {
    if (openResponse() || !hasModel) await session.input(text);
    else await post('dev/prompt', { session: sessionName, prompt: text });
  } catch (error) {
    complain(error.message);
    $('text').value ||= text;
  }
});

// The Enter that ends an input method's text asks nothing yet; Safari sends it after `compositionend`.
$('text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.isComposing || event.keyCode === 229)) event.preventDefault();
});

$('stop').addEventListener('click', () => {
  complain('');
  session.cancel(openResponse()).catch((error) => complain(error.message));
});

async function post(path, body = {}) {
  const answer = await fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  if (answer.ok) return;
  const { detail } = await answer.json().catch(() => ({}));
  throw new Error(detail ?? `It did not work: HTTP status ${answer.status}.`);
}

// Trouble

$('cut').addEventListener('click', () => {
  if (cable.isCut) journal.because('plugged in again');
  else journal.because('cut off');
  cable.toggle();
  $('cut').textContent = cable.isCut ? 'Plug in again' : 'Cut off';
  $('cut').setAttribute('aria-pressed', cable.isCut);
  showStatus(session.state);
});

$('reload').addEventListener('click', () => {
  journal.beforeReload();
  location.reload();
});

$('move').disabled = gateways.length < 2;
$('move').addEventListener('click', () => {
  journal.because('moved on');
  session.move();
});

$('kill').hidden = !hasModel;
$('kill').addEventListener('click', async () => {
  journal.because('gateway killed');
  const { name } = gateways.find(({ url }) => url === session.url) ?? {};
  await post(`dev/gateways/${name}/kill`).catch((error) => complain(error.message));
});
