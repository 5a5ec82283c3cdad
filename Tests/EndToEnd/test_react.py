"""`useBaton` in Debian's React 18 and marimo's React 19, in Chromium: in StrictMode, and after a server has rendered the page."""

import json
import re
import subprocess

import pytest
from support import ai_sdk
from support.browser import Browser, Pages
from support.process import REPOSITORY, wait_for

REACT = "/usr/share/nodejs"
SCRIPTS = {
    "/react-umd.js": "react/umd/react.development.js",
    "/react-dom.js": "react-dom/umd/react-dom.development.js",
    "/react-dom-server.js": "react-dom/umd/react-dom-server-legacy.browser.development.js",
}
PAGE = """<!doctype html><title>React</title>
<script src="/react-umd.js"></script><script src="/react-dom.js"></script><script src="/react-dom-server.js"></script>
<script type="importmap">{"imports": {"react": "/react.js", "baton/react": "GATEWAY/baton-react.js"}}</script>
<div id="app"></div><div id="other"></div>
<script type="module">
import { useBaton } from 'baton/react';
const { createElement: h, StrictMode, useEffect, useLayoutEffect, useState } = React;

window.problems = [];
for (const level of ['error', 'warn']) console[level] = (...words) => problems.push(words.join(' ').slice(0, 500));
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...values) {
    super(...values);
    sockets.push(this);
  }
};
window.open = () => sockets.filter(({ readyState }) => readyState < WebSocket.CLOSING).length;

window.commits = { one: [], two: [] };
function Answer({ name, options, busy = 0 }) {
  const chat = useBaton('GATEWAY', SESSION, options);
  for (const end = performance.now() + busy; performance.now() < end; );
  useEffect(() => { commits[name]?.push(chat.text); }, [chat]);
  window[name] = chat;
  return h('p', { id: name, className: 'answer' }, chat.text);
}

window.torn = [];
function Both({ busy }) {
  useLayoutEffect(() => {
    const shown = [...document.querySelectorAll('#app .answer')].map(({ textContent }) => textContent);
    if (new Set(shown).size > 1) torn.push(shown);
  });
  const [round, setRound] = useState(0);
  window.again = () => React.startTransition(() => setRound((round) => round + 1));
  return h('div', null, h(Answer, { name: 'one', busy }), h(Answer, { name: 'two', busy }), h('i', { id: 'round' }, round));
}

window.page = (body) => h(StrictMode, null, body);
window.mount = (busy) => (window.root = ReactDOM.createRoot(document.getElementById('app'))).render(page(h(Both, { busy })));
window.Answer = Answer;
window.h = h;
window.isReady = true;
</script>"""
SHIM = "export const { useEffect, useMemo, useSyncExternalStore } = React;"


def readme(gateway, session):
    """The README's component, without JSX."""
    block = re.search(r"<!-- tested: react -->\n```jsx\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)[1]
    block = block.replace("http://127.0.0.1:8080", gateway.url).replace("chat-42", session)
    script = f"console.log(require('{REACT}/typescript').transpile({json.dumps(block)}, {{ jsx: 2, target: 9, module: 6 }}))"
    return subprocess.run(["node", "-e", script], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.kill()


@pytest.fixture
def page(browser, gateway, session, started):
    """An app's page, with two components of one session to mount."""
    script = {"Content-Type": "text/javascript"}
    pages = {path: (open(f"{REACT}/{file}").read(), script) for path, file in SCRIPTS.items()}
    html = PAGE.replace("GATEWAY", gateway.url).replace("SESSION", repr(session))
    started.append(Pages({**pages, "/": html, "/react.js": (SHIM, script)}))
    browser.open(started[-1].url)
    wait_for(lambda: browser.run("return window.isReady"), what="the page's modules have run")
    return browser


def shown(page, id="one"):
    return page.run("return document.getElementById(arguments[0])?.textContent", id)


def test_two_components_share_a_connection_that_goes_with_the_last(page, redis, session, gateway):
    page.run("mount()")
    page.wait_state("live", "one")
    redis.add(session, response="r1", n=1, data="Hello, ")
    redis.add(session, response="r1", n=2, data="world.")
    wait_for(lambda: shown(page) == shown(page, "two") == "Hello, world.", what="both show it")
    assert page.run("return sockets.length") == 1, "StrictMode mounts twice"
    assert page.run("return one.responses === two.responses && one.stop !== undefined")
    page.run("root.render(page(h(Answer, { name: 'two', key: 'moved' })))")
    wait_for(lambda: shown(page) is None and shown(page, "two") == "Hello, world.", what="one has gone, and one moved")
    assert page.run("return [sockets.length, open()]") == [1, 1]
    page.run("root.unmount()")
    wait_for(lambda: page.run("return open()") == 0, what="the connection is closed")
    assert page.run("return [sockets.length, problems]") == [1, []]


def test_a_token_renders_once(page, redis, session):
    page.run("mount()")
    page.wait_state("live", "one")
    page.run("commits.one = []; commits.two = []")
    text = ""
    for n in range(1, 9):
        redis.add(session, response="r1", n=n, data=f"w{n} ")
        text += f"w{n} "
        wait_for(lambda: shown(page) == text, what=f"token {n} is shown")
    whole = [text[: 3 * n] for n in range(1, 9)]
    assert page.run("return [commits.one, commits.two]") == [whole, whole]


def test_no_tearing(page, redis, session):
    """Rendering that takes long, and may be interrupted, while tokens come."""
    page.run("mount(8)")
    page.wait_state("live", "one")
    page.run("window.rounds = setInterval(again, 3)")
    for n in range(1, 16):
        redis.add(session, response="r1", n=n, data="x")
        wait_for(lambda: (shown(page) or "").count("x") >= n - 1, what="it is shown while more comes")
    wait_for(lambda: shown(page) == shown(page, "two") == "x" * 15, what="all is shown")
    page.run("clearInterval(rounds)")
    assert int(shown(page, "round")) > 0
    assert page.run("return torn") == []


def test_hydration(page, redis, session):
    """What a server rendered is what the page renders first, also where it knows more by then."""
    redis.add_tokens(session, ["a", "b"], "r1")
    page.run("mount()")
    wait_for(lambda: shown(page) == "ab", what="the session is attached")
    page.run("""
        const body = page(h(Answer, { name: 'three' }));
        const element = document.getElementById('other');
        element.innerHTML = ReactDOMServer.renderToString(body);
        window.served = [element.textContent, three.state, one.state];
        ReactDOM.hydrateRoot(element, body, { onRecoverableError: (error) => problems.push(String(error)) });""")
    wait_for(lambda: shown(page, "three") == "ab", what="it is shown there, too")
    assert page.run("return served") == ["", "connecting", "live"]
    assert page.run("return [sockets.length, problems]") == [1, []]


def test_stop_and_input(page, redis, session):
    redis.add_tokens(session, ["a"], "r1")
    page.run("mount()")
    wait_for(lambda: shown(page) == "a", what="the answer runs")
    page.run("Promise.all([one.input('hello'), two.stop()]).then(([{ key }, stopped]) => (window.done = [typeof key, stopped.length]))")
    wait_for(lambda: page.run("return window.done"), what="both are accepted")
    assert page.run("return done") == ["string", 1]
    inbox = [dict(fields) for _, fields in redis.client.xrange(f"baton:{{{session}}}:inbox")]
    assert [(message[b"event"], message.get(b"response")) for message in inbox] == [(b"input", None), (b"cancel", b"r1")]


def test_the_readmes_component(page, redis, gateway, session):
    redis.add_tokens(session, ["a", "b"], "r1")
    page.run("""
        import(`data:text/javascript,${encodeURIComponent(arguments[0])}`)
          .then(({ Answer }) => ReactDOM.createRoot(document.getElementById('app')).render(page(h(Answer))));""", readme(gateway, session))  # fmt: skip
    wait_for(lambda: page.run("return document.querySelector('#app .live')?.textContent") == "ab", what="it shows the answer")
    page.run("document.querySelector('#app p').click()")
    wait_for(lambda: redis.client.xlen(f"baton:{{{session}}}:inbox") == 1, what="a click asks to stop it")


def test_react_19(browser, gateway, redis, session, started):
    started.append(ai_sdk.Server())
    page = ai_sdk.Chat(browser, started[-1]).open().browser
    assert page.run("return React.version").startswith("19.")
    redis.add_tokens(session, ["a", "b"], "r1")
    page.run("""
        const [client, url, session] = arguments;
        window.sockets = [];
        window.WebSocket = class extends WebSocket {
          constructor(...values) {
            super(...values);
            sockets.push(this);
          }
        };
        import(client).then(({ useBaton }) => {
          const { createElement: h, StrictMode } = React;
          const Answer = ({ id }) => h('p', { id }, useBaton(url, session).text);
          window.mounted = ReactDOM.createRoot(document.getElementById('root'));
          mounted.render(h(StrictMode, null, h(Answer, { id: 'one' }), h(Answer, { id: 'two' })));
        });""", f"{gateway.url}/baton-react.js", gateway.url, session)  # fmt: skip
    wait_for(lambda: shown(page) == shown(page, "two") == "ab", 20, "both show it")
    redis.add(session, response="r1", n=3, data="c")
    wait_for(lambda: shown(page) == shown(page, "two") == "abc", 20, "both show what comes")
    assert page.run("return sockets.length") == 1
    page.run("mounted.unmount()")
    wait_for(lambda: page.run("return sockets[0].readyState >= WebSocket.CLOSING"), 20, "the connection is closed")
