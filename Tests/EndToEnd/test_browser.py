"""baton.js in browsers, on real gateways: whatever happens to page, network or gateway, the page shows the stream."""

import base64
import hashlib
import hmac
import json
import random
import re
import time

import pytest
from support.browser import ENGINES, AnswerHolder, Browser, Pages, UpgradeBlocker
from support.process import REPOSITORY, wait_for
from support.switch import Switch


@pytest.fixture(scope="module", params=ENGINES)
def browser(request):
    browser = Browser(request.param)
    yield browser
    browser.kill()


@pytest.fixture
def page(browser, gateway):
    """An empty page of the gateway's origin."""
    return browser.open(gateway.url + "/healthz")


@pytest.fixture
def chromium(page):
    """A page that can be frozen and cut off by the DevTools protocol."""
    if page.engine != "chromium":
        pytest.skip("has no DevTools protocol")
    return page


@pytest.fixture
def blocker(gateway, started):
    started.append(UpgradeBlocker(gateway.port))
    return started[-1]


def words(first, last):
    return [f"w{n} ✓ " for n in range(first, last + 1)]


def stream_text(redis, session):
    return "".join(dict(fields)[b"data"].decode() for _, fields in redis.stream(session) if b"n" in dict(fields))


def test_text_as_it_comes(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 500), "r1")
    page.attach(gateway.url, session)
    page.wait_state("live")
    redis.add_tokens(session, words(501, 600), "r1", 501)
    page.wait_text(stream_text(redis, session))
    assert page.run("return s.responses.get('r1').n") == 600


def test_the_pages_in_the_readme(browser, gateway, redis, started):
    block = re.search(r"<!-- tested: browser -->\n```html\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)[1]
    started.append(Pages({"/": block.replace("127.0.0.1:8080", gateway.address)}))
    browser.open(started[-1].url)
    redis.client.delete("baton:{chat-42}")
    redis.add_tokens("chat-42", ["Hello, ", "world."], "r-page")
    shown = "return document.getElementById('answer').textContent"
    wait_for(lambda: browser.run(shown) == "Hello, world.", what="the page shows the text")


def test_the_readme_answers_back(page, gateway, redis):
    block = re.search(r"<!-- tested: answer-back -->\n```js\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)[1]
    redis.client.delete("baton:{chat-42}:inbox")
    page.attach(gateway.url, "chat-42")
    page.wait_state("live")
    page.run("window.done = undefined; (async (session) => {" + block + "})(s).then(() => (window.done = 'yes'), (error) => (window.done = String(error)))")
    wait_for(lambda: page.run("return window.done"), what="both are accepted")
    assert page.run("return window.done") == "yes"
    inbox = [dict(fields) for _, fields in redis.client.xrange("baton:{chat-42}:inbox")]
    assert [message[b"event"] for message in inbox] == [b"input", b"cancel"] and inbox[1][b"response"] == b"r1"


def test_the_client_in_one_file(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 5), "r1")
    page.attach(gateway.url, session, client="/baton.bundle.js")
    page.wait_text(stream_text(redis, session))
    names = "return Promise.all(['/baton.js', '/baton.bundle.js'].map(async (file) => Object.keys(await import(file)).sort()))"
    modules, bundle = page.run(names)
    assert modules == bundle and "attach" in bundle


def test_a_killed_gateway_costs_nothing(page, redis, session, new_gateway):
    first, second = new_gateway(redis.url, "gw-a"), new_gateway(redis.url, "gw-b")
    page.attach([first.url, second.url], session)
    page.wait_state("live")
    redis.add_tokens(session, words(1, 200), "r1")
    wait_for(lambda: page.text(), what="the first words")
    first.kill()
    redis.add_tokens(session, words(201, 400), "r1", 201)
    page.wait_text(stream_text(redis, session))
    assert [(event["node"], event["recovered"]) for event in page.events("attached")] == [("gw-a", False), ("gw-b", True)]
    assert not page.events("reset")
    assert sum(event.get("joined", 1) for event in page.events("entry")) == 400


@pytest.mark.parametrize("wire", ["websocket", "sse"])
def test_cut_at_a_hundred_random_moments(page, redis, session, gateway, gateway2, started, wire):
    chance = random.Random(wire)
    switches = [Switch(gateway.port), Switch(gateway2.port)]
    started += switches
    page.run("""
        window.dice = {random: () => 0};  // no waiting between the attempts
        if (arguments[0] === 'sse') dice.WebSocket = class { constructor() { throw new Error('blocked'); } };""", wire)
    page.attach([f"http://127.0.0.1:{switch.port}" for switch in switches], session, platform="dice")
    n = 1
    for _ in range(100):
        size = chance.choice([1, 1, 3, 50])
        redis.add_tokens(session, words(n, n + size - 1), "r1", n)
        n += size
        if chance.random() < 0.2:
            wait_for(lambda: page.text() == stream_text(redis, session), what="the page is level")
        chance.choice(switches).cut()
    redis.add(session, event="end", response="r1")
    page.wait_text(stream_text(redis, session))
    seen = [event for event in page.events("entry") if event["event"] == "token"]
    assert [event["n"] - event.get("joined", 1) for event in seen] == [0, *(event["n"] for event in seen[:-1])]
    assert seen[-1]["n"] == n - 1 and not page.events("reset")
    assert len(page.events("attached")) > 10
    wait_for(lambda: page.run("return s.transport") == wire, 30, "a chance fall to the other wire is mended")


def test_offline_and_back(chromium, page, gateway, redis, session):
    page.attach(gateway.url, session)
    page.wait_state("live")
    redis.add_tokens(session, words(1, 50), "r1")
    page.wait_text("".join(words(1, 50)))
    page.offline(True)
    try:
        redis.add_tokens(session, words(51, 100), "r1", 51)
    finally:
        page.offline(False)
    page.wait_text(stream_text(redis, session))
    assert sum(event.get("joined", 1) for event in page.events("entry")) == 100


def test_put_to_sleep_and_woken(chromium, page, gateway, redis, session):
    page.attach(gateway.url, session)
    page.wait_state("live")
    page.cdp("Page.setWebLifecycleState", state="frozen")
    redis.add_tokens(session, words(1, 100), "r1")
    page.cdp("Page.setWebLifecycleState", state="active")
    page.wait_text(stream_text(redis, session))


def test_reload_with_the_tabs_store(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 300), "r1")
    page.attach(gateway.url, session, store="session")
    page.wait_state("live")
    page.driver.refresh()
    redis.add_tokens(session, words(301, 320), "r1", 301)
    page.attach(gateway.url, session, store="session")
    page.wait_text(stream_text(redis, session))
    assert sum(event.get("joined", 1) for event in page.events("entry")) == 20


def test_a_finished_response_stays_finished_over_a_reload(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 30), "r1")
    redis.add(session, event="end", response="r1")
    redis.add_tokens(session, words(1, 5), "r2")
    for _ in range(2):
        page.attach(gateway.url, session, response="r1", store="session")
        page.wait_state("ended")
        assert page.events("end") == [{"type": "end", "reason": "finished"}]
        assert page.text() == "".join(words(1, 30)) and page.text("r2") == ""
        page.driver.refresh()


def test_the_pages_own_origin_below_a_path(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 5), "r1")
    page.run("history.pushState(null, '', '/chat/42')")
    page.attach("", session)
    page.wait_text(stream_text(redis, session))


def test_what_was_typed_without_a_gateway_survives_a_reload(browser, gateway, redis, session, started):
    way = Switch(gateway.port)
    started += [way, Pages({"/": "<p>a page"})]
    way.switch(None)
    url = f"http://127.0.0.1:{way.port}"
    browser.open(started[-1].url).attach(url, session, client=gateway.url + "/baton.js", store="session")
    browser.run("s.input('typed offline', {key: 'k1'}); s.cancel('r1', {key: 'k2'})")
    browser.driver.refresh()
    browser.attach(url, session, client=gateway.url + "/baton.js", store="session")
    wait_for(lambda: browser.run("return s.unanswered.length") == 2, what="both are there again")
    way.switch(gateway.port)
    wait_for(lambda: browser.run("return s.unanswered.length") == 0, 40, "both are answered")
    inbox = [dict(fields) for _, fields in redis.client.xrange(f"baton:{{{session}}}:inbox")]
    assert [(message[b"event"], message[b"key"]) for message in inbox] == [(b"input", b"k1"), (b"cancel", b"k2")]
    wait_for(lambda: [event["data"] for event in browser.events("entry")] == ["typed offline"], what="it is in the stream, once")


def test_away_and_back_in_history(page, gateway, redis, session):
    page.attach(gateway.url, session)
    page.wait_state("live")
    page.open("about:blank")
    redis.add_tokens(session, words(1, 20), "r1")
    page.driver.back()
    if page.run("return window.s === undefined"):
        page.attach(gateway.url, session)  # not kept in the back/forward cache of this Chromium
    page.wait_text(stream_text(redis, session))


def test_two_tabs_do_not_disturb_each_other(page, gateway, redis, session):
    first = page.driver.current_window_handle
    page.attach(gateway.url, session, store="session")
    page.wait_state("live")
    page.driver.switch_to.new_window("tab")
    try:
        page.open(gateway.url + "/healthz")
        page.attach(gateway.url, session, store="session")
        page.wait_state("live")
        redis.add_tokens(session, words(1, 100), "r1")
        page.wait_text(stream_text(redis, session))
        page.run("s.close()")
        redis.add_tokens(session, words(101, 110), "r1", 101)
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    page.wait_text(stream_text(redis, session))


def test_a_deleted_and_new_stream_replaces_what_is_shown(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 10), "r1")
    page.attach(gateway.url, session)
    page.wait_state("live")
    redis.client.delete(f"baton:{{{session}}}")
    redis.add_tokens(session, ["new "], "r1")
    page.wait_text("new ")
    assert page.events("reset")[0]["reason"] in ("deleted", "diverged", "ahead", "trimmed")


def test_until_end_finishes(page, gateway, redis, session):
    redis.add_tokens(session, words(1, 5), "r1")
    redis.add(session, event="end", response="r1")
    page.attach(gateway.url, session, until="end")
    page.wait_state("ended")
    assert page.events("end") == [{"type": "end", "reason": "finished"}]
    assert page.text() == stream_text(redis, session)


def test_what_one_page_types_shows_on_another_and_reaches_the_inbox(page, gateway, gateway2, redis, session):
    page.attach(gateway.url, session, name="one")
    page.attach(gateway2.url, session, name="two")
    page.wait_state("live", "one")
    told = page.driver.execute_async_script("""
        const done = arguments[0];
        Promise.all([one.input('hello ✓', {key: 'k1'}), one.input('hello ✓', {key: 'k2'}), two.cancel('r1')])
          .then(async (answers) => done([...answers, await one.input('other', {key: 'k1'}).catch(({code}) => code)]), (error) => done(`${error}`));""")
    assert len(told) == 4 and told[3] == "key_conflict", told
    wait_for(lambda: [event["data"] for event in page.events("entry", "two")] == ["hello ✓"] * 2, what="the other page shows both")
    inbox = [fields for _, fields in redis.client.xrange(f"baton:{{{session}}}:inbox")]
    assert sorted(entry[b"event"] for entry in inbox) == [b"cancel", b"input", b"input"]
    assert [entry[b"response"] for entry in inbox if entry[b"event"] == b"cancel"] == [b"r1"]


def answers_back(browser, redis, session):
    """What a person types and stops, also where no WebSocket passes."""
    told = browser.driver.execute_async_script("""
        const done = arguments[0];
        Promise.all([s.input('hello ✓', {key: 'k1'}), s.cancel('r9')]).then((all) => done(all.map(({inboxId}) => inboxId)), (error) => done(`${error}`));""")
    inbox = redis.client.xrange(f"baton:{{{session}}}:inbox")
    assert sorted(told) == [id.decode() if isinstance(id, bytes) else id for id, _ in inbox], told
    assert sorted(fields[b"event"] for _, fields in inbox) == [b"cancel", b"input"]
    wait_for(lambda: [event["data"] for event in browser.events("entry") if event["event"] == "input"] == ["hello ✓"], what="it is shown")


def test_a_proxy_without_websocket_means_server_sent_events_and_the_way_back(browser, blocker, redis, session):
    browser.open(blocker.url + "/healthz").attach(blocker.url, session)
    browser.wait_state("live")
    assert browser.run("return s.transport") == "sse"
    answers_back(browser, redis, session)
    redis.add_tokens(session, words(1, 100), "r1")
    browser.wait_text(stream_text(redis, session))
    blocker.blocks = False
    wait_for(lambda: browser.run("return s.transport") == "websocket", 30, "WebSocket is found again")
    redis.add_tokens(session, words(101, 200), "r1", 101)
    browser.wait_text(stream_text(redis, session))
    assert sum(event.get("joined", 1) for event in browser.events("entry") if event["event"] == "token") == 200


def test_a_network_that_holds_every_answer_until_it_is_whole(browser, gateway, redis, session, started):
    started.append(AnswerHolder(gateway.port))
    redis.add_tokens(session, words(1, 50), "r1")
    browser.open(started[-1].url + "/healthz").attach(started[-1].url, session)
    browser.wait_state("live", seconds=60)
    assert browser.run("return s.transport") == "pages"
    answers_back(browser, redis, session)
    redis.add_tokens(session, words(51, 100), "r1", 51)
    browser.wait_text(stream_text(redis, session))
    assert sum(event.get("joined", 1) for event in browser.events("entry") if event["event"] == "token") == 100
    redis.client.delete(f"baton:{{{session}}}")
    redis.add_tokens(session, ["new "], "r1")
    browser.wait_text("new ")


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_eventsource_without_our_client(kind, page, redis, session, new_gateway, new_proxy):
    gateways = [new_gateway(redis.url, "gw-a"), new_gateway(redis.url, "gw-b")]
    proxy = new_proxy(kind, gateways)
    page.open(proxy.url + "/healthz").run("""
        window.text = '';
        window.nodes = [];
        const source = new EventSource(`/v1/sessions/${arguments[0]}`);
        source.onmessage = ({data}) => {
          const frame = JSON.parse(data);
          if (frame.type === 'attached') window.nodes.push(frame.node);
          if (frame.type === 'reset') window.text = 'reset';
          if (!frame.type) window.text += frame.data;
        };""", session)
    wait_for(lambda: page.run("return nodes.length"), what="the event stream is attached")
    redis.add_tokens(session, words(1, 100), "r1")
    wait_for(lambda: page.run("return text") == stream_text(redis, session), what="the first words")
    serving = page.run("return nodes[0]")
    next(gateway for gateway in gateways if gateway.node == serving).kill()
    redis.add_tokens(session, words(101, 200), "r1", 101)
    wait_for(lambda: page.run("return text") == stream_text(redis, session), 30, "the rest")
    assert page.run("return nodes.at(-1)") != serving


def test_eventsource_with_plain_text(page, gateway, redis, session):
    page.run("""
        window.text = '';
        const source = new EventSource(`/v1/sessions/${arguments[0]}?format=text`);
        source.addEventListener('token', ({data}) => window.text += data);
        source.addEventListener('end', () => window.text += '.');""", session)
    redis.add_tokens(session, ["one ", "two\n", "three"], "r1")
    redis.add(session, event="end", response="r1")
    wait_for(lambda: page.run("return text") == "one two\nthree.", what="the plain text")


def test_a_page_of_another_origin_reads_why_it_is_refused(browser, gateway, gateway2, redis, session):
    redis.client.set(f"baton:{{{session}}}", "not a stream")
    browser.open(gateway.url.replace("127.0.0.1", "localhost") + "/healthz").attach(gateway2.url, session)
    browser.wait_state("ended")
    told = browser.events("end")[0]
    assert told["code"] == 4409 and session in told["detail"]


def test_a_page_of_another_origin_sees_the_end_over_server_sent_events(browser, gateway, gateway2, redis, session):
    redis.add_tokens(session, words(1, 5), "r1")
    redis.add(session, event="end", response="r1")
    browser.open(gateway.url + "/healthz")
    browser.run("window.blocked = {WebSocket: class { constructor() { throw new Error('blocked'); } }}")
    browser.attach(gateway2.url, session, until="end", platform="blocked")
    browser.wait_state("ended")
    assert browser.events("end") == [{"type": "end", "reason": "finished"}]
    assert browser.text() == stream_text(redis, session)


# What a page can't see


def told(browser, kind):
    return wait_for(lambda: browser.events(kind), 30, f"the app is told by {kind}")[0]


@pytest.mark.parametrize("status", [401, 404, 410, 421])
def test_what_a_proxy_says_while_the_gateway_is_away_ends_nothing(browser, gateway, redis, session, started, status):
    away = Pages({}, missing=status)
    way = Switch(gateway.port)
    started += [away, way]
    redis.add_tokens(session, words(1, 5), "r1")
    url = f"http://127.0.0.1:{way.port}"
    browser.open(url + "/healthz").attach(url, session)
    browser.wait_state("live")
    way.switch(away.port)
    told(browser, "error")  # after five attempts, of which some could read the status
    way.switch(gateway.port)
    redis.add_tokens(session, words(6, 10), "r1", 6)
    browser.wait_text(stream_text(redis, session), seconds=40)
    assert browser.events("end") == []


@pytest.mark.parametrize("kind", ["origin", "file"])
def test_a_refused_origin_is_told_at_once(browser, redis, session, new_gateway, started, tmp_path, kind):
    gateway = new_gateway(redis.url, "gw-strict", "--allowed-origins", "https://app.example")
    if kind == "file":
        (tmp_path / "page.html").write_text("<p>a page of a folder")
        browser.open((tmp_path / "page.html").as_uri())
    else:
        started.append(Pages({"/": "<p>a page"}))
        browser.open(started[-1].url)
    browser.attach(gateway.url, session, client=gateway.url + "/baton.js")
    end = told(browser, "end")
    assert (end["reason"], end["code"]) == ("rejected", 4403) and "--allowed-origins" in end["detail"]
    assert len(browser.events("error")) == 0


def test_a_content_policy_without_the_gateway_is_told(browser, gateway, session, started):
    policy = {"Content-Security-Policy": f"connect-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' {gateway.url}"}
    started.append(Pages({"/": ("<p>a page", policy)}))
    browser.open(started[-1].url).attach(gateway.url, session, client=gateway.url + "/baton.js")
    wait_for(lambda: [event for event in browser.events("error") if event["code"] == "unreachable"], 30, "the app is told")
    errors = {event["code"]: event["message"] for event in browser.events("error")}
    assert gateway.url in errors["unreachable"] and len(browser.events("error")) == len(errors)


def test_a_reload_is_no_lost_connection(page, gateway, session):
    page.attach(gateway.url, session)
    page.wait_state("live")
    page.run("""
        sessionStorage.setItem('told', '');
        s.addEventListener('state', ({detail}) => sessionStorage.setItem('told', `${sessionStorage.getItem('told')}${detail} `));""")
    page.driver.refresh()
    assert page.run("return sessionStorage.getItem('told')") in ("", "suspended ")


def test_half_a_character_costs_nothing(page, gateway, redis, session):
    page.attach(gateway.url, session)
    page.wait_state("live")
    page.run("window.settled = s.input('a😀'.slice(0, 2)).then(() => (window.accepted = true))")
    wait_for(lambda: page.run("return window.accepted"), what="it is accepted")
    assert [event["data"] for event in page.events("entry")] == ["a\ufffd"]
    assert page.state() == "live" and len(page.events("attached")) == 1


# Credentials

SECRET = b"an example secret of 32 bytes ok"


def token(**claims):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"sub": "ann", "exp": int(time.time()) + 600, "scope": ["read"], **claims}
    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (signed + b"." + part(hmac.digest(SECRET, signed, hashlib.sha256))).decode()


@pytest.fixture(scope="module")
def guarded(shared, redis):
    from support.servers import Gateway

    file = shared / "secret"
    file.write_bytes(SECRET)
    server = Gateway(shared, redis.url, "gw-guarded", "--auth-secret-file", file)
    yield server
    server.kill()


@pytest.mark.parametrize("case, code", [
    ("absent", 4401), ("wrong", 4401), ("expired", 4401), ("other session", 4403), ("no scope", 4403), ("right", None),
])  # fmt: skip
def test_tokens(browser, guarded, redis, session, case, code):
    given = {
        "absent": None,
        "wrong": token(sessions=[session])[:-6] + "AAAAAA",
        "expired": token(sessions=[session], exp=int(time.time()) - 600),
        "other session": token(sessions=["another"]),
        "no scope": token(sessions=[session], scope=["publish"]),
        "right": token(sessions=[session[:4] + "*"]),
    }[case]
    redis.add_tokens(session, words(1, 3), "r1")
    browser.open(guarded.url + "/healthz").attach(guarded.url, session, **({"token": given} if given else {}))
    if code is None:
        browser.wait_state("live")
        assert browser.text() == stream_text(redis, session)
    else:
        browser.wait_state("ended")
        told = browser.events("end")[0]
        assert (told["reason"], told["code"]) == ("rejected", code) and told["detail"], told


def test_a_wrong_key_is_told_once_and_the_state_says_so(browser, guarded, session):
    browser.open(guarded.url + "/healthz").run("""
        const [url, session, token] = arguments;
        Object.assign(window, {states: [], errors: [], asked: 0});
        return import('/baton.js').then(({attach}) => {
          window.s = attach(url, session, {
            token: () => { window.asked += 1; return token; },
            onstate: (state) => window.states.push(state),
            onerror: ({code, message}) => window.errors.push(`${code}: ${message}`),
          });
        });""", guarded.url, session, token(sessions=[session])[:-6] + "AAAAAA")  # fmt: skip
    wait_for(lambda: browser.run("return window.asked") >= 4, 30, "it is asked again")
    assert set(browser.run("return window.states")) == {"connecting", "unauthorized"}
    [error] = browser.run("return window.errors")
    assert error.startswith("unauthorized: ") and "not signed with this gateway's key" in error
