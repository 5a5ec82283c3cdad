// The desk of the demonstration: asks the model, puts two devices side by side, and keeps count.
// Each device is a page of its own (demo-device.js) with its own Baton client; this one has none.
//
// What `baton dev` answers beside this page:
//   GET  dev/state?session=S   {"gateways":[{"name":"gw-1","url":"http://127.0.0.1:8081","alive":true}, …],
//                               "model":"…" or null, "modelTrouble":"…" where a server has none,
//                               "producer":{"response":"r…","n":1248,"state":"open"} or null,
//                               "redis":"unix:///tmp/…/redis.sock"}
//                              `producer`: the session's newest response as Redis has it; `n` is its last number,
//                              `state` open, end, error or cancelled. `redis`: for redis-cli and other producers
//   POST dev/prompt            {"session","prompt"} → 202 {"response":"r…"}: appends `input`, then the model's answer;
//                              otherwise problem+json whose `detail` says what to mend
//   POST dev/gateways/NAME/kill      204; it starts again by itself after some 3 s
//   POST dev/gateways/NAME/restart   204

import { QRCode } from './demo-qr.js';
import { showWires } from './demo-wires.js';

const $ = (id) => document.getElementById(id);
const session = sessionFromAddress();
const devices = { laptop: undefined, phone: undefined };
let producer;
/** Their addresses, as far as they are known. */
let gateways = [];

function sessionFromAddress() {
  const address = new URL(location.href);
  if (!address.searchParams.has('session')) {
    address.searchParams.set('session', `chat-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`);
    history.replaceState(null, '', address);
  }
  return address.searchParams.get('session');
}

function deviceAddress(name, first) {
  // `#token=…` is for gateways that ask who is there; a fragment is never sent to a server.
  return new URL(`demo-device.html?${new URLSearchParams({ session, name, first })}${location.hash}`, location.href).href;
}

$('laptop').src = deviceAddress('laptop', 0);
$('phone').src = deviceAddress('phone', 1);

// Asking

$('ask').addEventListener('submit', async (event) => {
  event.preventDefault();
  $('problem').textContent = '';
  const prompt = $('prompt').value.trim();
  const problem = await post('dev/prompt', { session, prompt });
  if (problem) $('problem').textContent = problem;
  else $('prompt').value = '';
});

$('prompt').addEventListener('keydown', (event) => {
  // 229: the Enter that ends an input method's text; Safari sends it after `compositionend`.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  $('ask').requestSubmit();
});

/** @returns {Promise<string|undefined>} what went wrong, in words */
async function post(path, body) {
  try {
    const answer = await fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body ?? {}),
    });
    if (answer.ok) return undefined;
    const { detail } = await answer.json().catch(() => ({}));
    return detail ?? `It did not work: HTTP status ${answer.status}.`;
  } catch {
    return 'Nobody answers. Is “baton dev” still running?';
  }
}

// What the devices tell

addEventListener('message', ({ origin, data }) => {
  if (origin !== location.origin || !(data?.device in devices)) return;
  if (data.log) addLine(data.device, data.log);
  if (data.count) {
    devices[data.device] = data.count;
    showCounts();
  }
});

function addLine(device, text) {
  const line = document.createElement('li');
  const who = document.createElement('b');
  who.textContent = `${device}: `;
  line.append(who, text);
  $('log').prepend(line);
  while ($('log').childElementCount > 200) $('log').lastChild.remove();
}

/** The newest response's name, as far as anybody has told it. */
function newest() {
  return producer?.response ?? devices.laptop?.response ?? devices.phone?.response;
}

function showCounts() {
  const answer = newest();
  const seen = Object.entries(devices).map(([name, count]) => {
    const n = count && count.response === answer ? count.n : undefined;
    $(`count-${name}`).textContent = n?.toLocaleString() ?? '–';
    return n ?? 0;
  });
  if (!producer) return;
  const written = Math.max(producer.n, ...seen); // the last look may be older than what the devices have
  $('count-producer').textContent = written.toLocaleString();
  const state = { open: 'writing …', error: 'the answer broke off', cancelled: 'stopped', end: 'finished' }[producer.state];
  const agree = producer.state !== 'open' && seen.every((n) => n === written);
  setText($('agree'), agree ? `${state}: all three agree` : state);
}

/** A status that is set anew is read out anew. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// What `baton dev` tells

async function look() {
  try {
    const answer = await fetch(`dev/state?${new URLSearchParams({ session })}`, { cache: 'no-store' });
    if (answer.status === 404) return withoutControl();
    const state = await answer.json();
    producer = state.producer ?? undefined;
    use(state.gateways.map(({ url }) => reachable(url)));
    showGateways(state.gateways);
    showCounts();
    if (state.model === null) $('problem').textContent = state.modelTrouble ?? 'No model is running. Start with “baton dev --openai URL”, or publish from a terminal.';
  } catch {
    setText($('agree'), '“baton dev” does not answer. The devices go on as long as a gateway runs.');
  }
  setTimeout(look, producer?.state === 'open' ? 250 : 1000);
}

function withoutControl() {
  use([new URL('.', location.href).href]);
  for (const id of ['ask', 'written', 'fleet']) $(id).hidden = true;
  setText($('agree'), `No “baton dev” here: write to session ${session} with “baton publish ${session}”, and watch.`);
}

function showGateways(gateways) {
  for (const { name, alive } of gateways) {
    const row = $(`gateway-${name}`) ?? newGateway(name);
    row.className = alive ? 'alive' : 'down';
    setText(row.querySelector('span'), alive ? 'runs' : 'is down, starts again …');
    row.querySelector('button').disabled = !alive;
  }
}

function newGateway(name) {
  const row = document.createElement('li');
  row.id = `gateway-${name}`;
  row.innerHTML = '<b></b> <span></span> <button type="button">Kill</button>';
  row.querySelector('b').textContent = name;
  const kill = row.querySelector('button');
  kill.setAttribute('aria-label', `Kill ${name}`);
  kill.addEventListener('click', () => post(`dev/gateways/${name}/kill`).then((problem) => addLine(name, problem ?? 'killed')));
  $('gateways').append(row);
  return row;
}

/** As this page can reach a gateway. */
function reachable(address) {
  const url = new URL(address);
  if (['127.0.0.1', 'localhost', '[::1]'].includes(url.hostname)) url.hostname = location.hostname;
  return url.href;
}

function use(addresses) {
  gateways = addresses;
  setText($('attach'), `$ baton attach ${session}${addresses.map((url) => ` --url ${url}`).join('')}`);
  const response = newest();
  if (response) setText($('retrieve'), `OpenAI(base_url="${addresses[0]}v1", api_key="-").responses.retrieve("${response}~${session}", stream=True)`);
}

showWires(session, new URLSearchParams(location.hash.slice(1)).get('token') ?? undefined, () => gateways, newest, {
  terminal: $('terminal'),
  useChat: $('use-chat'),
  openai: $('openai'),
});

// The way to a real phone

const link = deviceAddress('your-phone', 1);
$('handover').href = link;
$('qr').append(QRCode.svg(link));
$('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(link);
    $('copy').textContent = 'Copied';
  } catch {
    prompt('Copy this link:', link); // no clipboard without https
  }
  setTimeout(() => ($('copy').textContent = 'Copy link'), 2000);
});

$('reach').textContent = reach();

function reach() {
  const local = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);
  return local
    ? 'A phone can’t reach this address. Start with “baton dev --listen 0.0.0.0:8080 --insecure-no-auth” and open this page by this computer’s address in your network.'
    : 'The phone must be in the same network. It goes on with this very answer.';
}

look();
