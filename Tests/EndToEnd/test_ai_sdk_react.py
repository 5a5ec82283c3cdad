"""The real `useChat` with its own transport before gateways: whatever happens to page and node, the message is that of an unbroken run."""

import threading

import pytest
from support import ai_sdk
from support.browser import Browser
from support.process import wait_for
from support.switch import Switch
from test_ai_sdk import WORDS, answer, approval, failing, relayed, rich, sse, stop
from test_relay import Upstream


@pytest.fixture(scope="module")
def upstream():
    return Upstream([])


@pytest.fixture(scope="module")
def relays(upstream, tmp_path_factory, redis):
    with relayed(upstream, tmp_path_factory.mktemp("react"), redis) as gateways:
        yield gateways


@pytest.fixture(scope="module")
def page():
    server, browser = ai_sdk.Server(), Browser()
    yield ai_sdk.Chat(browser, server).open()
    browser.kill()
    server.kill()


@pytest.fixture(autouse=True)
def afresh(upstream):
    upstream.events, upstream.paced, upstream.go = sse(*answer()), False, threading.Semaphore(0)
    upstream.requests.clear()
    upstream.gone.clear()


def api(gateway):
    return {"api": f"{gateway.url}/v1/ai-sdk"}


def asked(page, gateway, session):
    page.show(session, api(gateway), resume=False)
    page.wait_status("ready")
    page.call("sendMessage", {"text": "hi"})
    return page


@pytest.mark.parametrize("events", [answer(messageId="m-1"), rich(), failing()], ids=["text", "rich", "error"])
def test_left_after_each_chunk_and_resumed_on_the_other_node(relays, upstream, page, session, events):
    events[0].setdefault("messageId", "m-1")
    upstream.events = sse(*events)
    ended = "error" if events[-1]["type"] == "error" else "ready"
    asked(page, relays[0], f"{session}-whole").wait_text(text_of(events))
    page.wait_status(ended)
    whole = page.answers()
    upstream.paced = True
    for place in range(1, len(events) + 1):
        name, node = f"{session}-{place}", place % 2
        upstream.go = threading.Semaphore(0)
        asked(page, relays[node], name)
        wait_for(lambda: len(upstream.requests) == place + 1, 20, "the backend is asked")
        upstream.go.release(place)
        page.wait_text(text_of(events[:place]))
        # What an app may have stored of it: the question, and half an answer.
        stored = page.value("messages")[: 1 + place % 2 * bool(text_of(events[:place]))]
        page.show(name, api(relays[1 - node]), stored)
        upstream.go.release(len(events))
        page.wait_resumed()
        page.wait_text(text_of(events))
        page.wait_status(ended)
        assert page.answers() == whole, place
    assert len(upstream.requests) == len(events) + 1


def text_of(events):
    return "".join(event["delta"] for event in events if event["type"] == "text-delta")


def test_a_reload_in_mid_answer(relays, upstream, page, session):
    upstream.paced = True
    asked(page, relays[0], session)
    upstream.go.release(5)
    page.wait_text("Baton passes ")
    stored = page.value("messages")
    page.open().show(session, api(relays[1]), stored)
    page.wait_status("streaming")
    page.wait_text("Baton passes ")
    upstream.go.release(40)
    page.wait_text("".join(WORDS))
    page.wait_status("ready")
    assert len(page.value("messages")) == 2 and page.value("messages")[0] == stored[0]
    # Nothing is asked twice, and what has ended shows nothing twice.
    page.open().show(session, api(relays[0]), stored)
    page.wait_text("".join(WORDS))
    assert len(page.value("messages")) == 2 and len(upstream.requests) == 1


def test_stop_for_everybody(relays, upstream, page, session):
    upstream.paced = True
    asked(page, relays[0], session)
    upstream.go.release(5)
    page.wait_text("Baton passes ")
    other = ai_sdk.Chat(page.browser, page.server, "other").show(session, api(relays[1]), page.value("messages")[:1])
    other.wait_text("Baton passes ")
    # Its own stop only stops to read.
    page.call("stop")
    page.wait_status("ready")
    upstream.go.release(1)
    other.wait_text("Baton passes the ")
    stop(relays[0], session)
    assert upstream.gone.wait(20)
    other.wait_status("ready")
    assert other.text() == "Baton passes the "


def test_an_approval_after_a_reload(relays, upstream, page, session):
    first, second = approval()
    upstream.events = sse(*first)
    asked(page, relays[0], session).wait_text("Shall I?")
    page.wait_status("ready")
    stored = page.value("messages")
    upstream.events = sse(*second)
    page.open().show(session, api(relays[1]), stored)
    page.wait_resumed()
    page.wait_status("ready")
    assert page.text() == "Shall I?" and len(page.value("messages")) == 2
    page.call("addToolApprovalResponse", {"id": "ap_1", "approved": True})
    page.wait_text("Shall I?Done.")
    page.wait_status("ready")
    whole = page.answers()
    assert [part.get("output") for part in whole[0]["parts"] if part["type"] == "tool-pay"] == ["paid"] and len(upstream.requests) == 2
    # Another device, which has stored the question only.
    page.open().show(session, api(relays[0]), stored[:1])
    page.wait_text("Shall I?Done.")
    page.wait_status("ready")
    again = page.answers()
    assert len(again) == 1 and again[0]["id"] == whole[0]["id"]
    assert [part.get("output") for part in again[0]["parts"] if part["type"] == "tool-pay"] == ["paid"]


# With baton-ai-sdk.js


@pytest.fixture
def pair(upstream, tmp_path, redis):
    """Two gateways of its own, which may be killed."""
    with relayed(upstream, tmp_path, redis) as gateways:
        yield gateways


def baton(*gateways):
    """How to show a chat that reads from these, with the client's files of the first that is there at the end."""
    return {"url": [gateway.url for gateway in gateways]}, f"{gateways[-1].url}/baton-ai-sdk.js"


def shown(page, session, *gateways):
    transport, client = baton(*gateways)
    page.show(session, transport, client=client, resume=False)
    page.wait_status("ready")
    return page


def test_a_message_goes_on_when_its_readers_gateway_dies(pair, upstream, page, session, redis):
    """Of two nodes the one that does not relay is killed: the stream of the page that asked goes on."""
    upstream.events, upstream.paced = sse(*rich()), True
    shown(page, session, pair[0], pair[1])
    page.call("sendMessage", {"text": "hi"})
    upstream.go.release(8)
    wait_for(lambda: page.answers() and len(page.answers()[0]["parts"]) == 3, 20, "the tool's input begins")
    other = ai_sdk.Chat(page.browser, page.server, "other")
    shown_other(other, session, pair[1], pair[0])
    wait_for(lambda: other.answers() == page.answers(), 20, "the other shows the same")
    pair[1].kill()
    upstream.go.release(40)
    page.wait_text(text_of(rich()))
    other.wait_text(text_of(rich()))
    for one in (page, other):
        one.wait_status("ready")
        assert not one.value("failed")
    assert other.answers() == page.answers() and len(upstream.requests) == 1
    upstream.paced = False
    upstream.events = sse(*answer())
    page.call("sendMessage", {"text": "more"})
    page.wait_text(text_of(rich()) + "|" + "".join(WORDS))


def test_a_gateway_dies_under_the_stock_transport(pair, upstream, page, session):
    upstream.paced = True
    asked(page, pair[0], session)
    upstream.go.release(5)
    page.wait_text("Baton passes ")
    other = ai_sdk.Chat(page.browser, page.server, "other").show(session, api(pair[1]), page.value("messages")[:1])
    other.wait_text("Baton passes ")
    pair[1].kill()
    other.wait_status("error")
    other.show(session, api(pair[0]), other.value("messages"))
    upstream.go.release(40)
    for one in (page, other):
        one.wait_text("".join(WORDS))
        one.wait_status("ready")
    assert other.answers() == page.answers() and len(upstream.requests) == 1


def shown_other(other, session, *gateways):
    transport, client = baton(*gateways)
    return other.show(session, transport, client=client)


@pytest.mark.parametrize("events", [rich(), failing()], ids=["rich", "error"])
def test_cut_off_after_each_chunk(relays, upstream, page, session, redis, events):
    """One stream goes on, whatever becomes of its connections."""
    events[0].setdefault("messageId", "m-1")
    upstream.events, upstream.paced = sse(*events), True
    ways = [Switch(gateway.port) for gateway in relays]
    urls = [f"http://127.0.0.1:{way.port}" for way in ways]
    page.show(session, {"url": urls}, client=f"{relays[0].url}/baton-ai-sdk.js", resume=False)
    page.wait_status("ready")
    page.call("sendMessage", {"text": "hi"})
    for place in range(1, len(events) + 1):
        known = len(redis.stream(session))
        upstream.go.release()
        wait_for(lambda: len(redis.stream(session)) > known, 20, "it is in the session")
        for way in ways:
            way.cut()
    upstream.go.release()
    ended = "error" if events[-1]["type"] == "error" else "ready"
    page.wait_text(text_of(events))
    page.wait_status(ended)
    cut = page.answers()
    page.show(session, api(relays[0]), page.value("messages")[:1])
    page.wait_text(text_of(events))
    page.wait_status(ended)
    assert page.answers() == cut and len(upstream.requests) == 1
    for way in ways:
        way.kill()


def test_a_page_hears_of_what_begins_elsewhere(relays, upstream, page, session):
    shown(page, session, relays[0])
    page.browser.run("""
        import(arguments[0]).then(({ BatonChatTransport }) => {
          window.heard = [];
          const told = (event) => (window.isWatched ||= JSON.parse(event.data).type === 'live');
          const platform = { WebSocket: class extends WebSocket { constructor(...given) { super(...given); this.addEventListener('message', told); } } };
          const transport = new BatonChatTransport({ url: arguments[1], platform });
          transport.watch(arguments[2], (response) => { heard.push(response); window.chat.resumeStream(); });
        });""", f"{relays[0].url}/baton-ai-sdk.js", relays[0].url, session)  # fmt: skip
    wait_for(lambda: page.browser.run("return window.isWatched"), 20, "it watches")
    other = ai_sdk.Chat(page.browser, page.server, "other")
    shown(other, session, relays[1])
    other.call("sendMessage", {"text": "hi"})
    page.wait_text("".join(WORDS))
    assert page.answers() == other.answers() and len(page.browser.run("return heard")) == 1


def test_batons_stop_ends_the_answer(relays, upstream, page, session):
    upstream.paced = True
    shown(page, session, relays[0])
    page.call("sendMessage", {"text": "hi"})
    upstream.go.release(5)
    page.wait_text("Baton passes ")
    page.browser.run("import(arguments[0]).then(({ BatonChatTransport }) => new BatonChatTransport({ url: arguments[1] }).stop(arguments[2]))",
                     f"{relays[1].url}/baton-ai-sdk.js", relays[1].url, session)  # fmt: skip
    assert upstream.gone.wait(20)
    page.wait_status("ready")


# Others' answers


def test_a_plain_producers_answer(relays, page, session, redis):
    redis.add_tokens(session, ["Hel", "lo"], "r1")
    page.show(session, api(relays[0]))
    page.wait_text("Hello")
    page.wait_status("streaming")
    redis.add(session, event="end", response="r1")
    page.wait_status("ready")
