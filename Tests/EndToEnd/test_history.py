"""Section 7: history as JSON pages."""

import concurrent.futures
import signal
import time

import pytest
from support.checker import frame_of, offset
from support.process import wait_for
from support.servers import key


@pytest.fixture
def filled(redis, session):
    """250 entries with the ids 1-0 … 250-0."""
    pipeline = redis.client.pipeline(transaction=False)
    for n in range(1, 251):
        pipeline.xadd(key(session), {"data": f"d{n} ", "response": "r", "n": n}, id=f"{n}-0")
    pipeline.execute()
    return session


def wanted(redis, session):
    return [frame_of(entry) for entry in redis.stream(session)]


def test_the_first_page(redis, gateway, filled):
    answer = gateway.history(filled)
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/json")
    page = answer.json
    assert page["session"] == filled and page["more"] is True
    assert page["entries"] == wanted(redis, filled)[:100]
    assert page["first"].partition(".")[0] == "1-0" and page["last"].partition(".")[0] == "250-0"


@pytest.mark.parametrize("limit", [1, 99, 249, 250, 1000])
def test_paging_forward_gives_everything_once(redis, gateway, filled, limit):
    entries, at = [], None
    while True:
        page = gateway.history(filled, f"?limit={limit}" + (f"&after={at}" if at else "")).json
        assert len(page["entries"]) <= limit
        entries += page["entries"]
        if not page["more"]:
            break
        at = page["entries"][-1]["id"]
        if limit == 1 and len(entries) > 20:
            return
    assert entries == wanted(redis, filled)


def test_paging_backward_gives_everything_once(redis, gateway, filled):
    entries = []
    at = offset(redis.stream(filled)[-1])
    while True:
        page = gateway.history(filled, f"?limit=60&before={at}").json
        assert page["entries"] == sorted(page["entries"], key=lambda frame: int(frame["id"].partition("-")[0]))
        entries = page["entries"] + entries
        if not page["more"]:
            break
        at = page["entries"][0]["id"]
    assert entries == wanted(redis, filled)[:-1]


def test_after_the_last_is_an_empty_page(redis, gateway, filled):
    page = gateway.history(filled, f"?after={offset(redis.stream(filled)[-1])}").json
    assert page["entries"] == [] and page["more"] is False


def test_after_zero_is_the_beginning(redis, gateway, filled):
    assert gateway.history(filled, "?after=0&limit=5").json["entries"] == wanted(redis, filled)[:5]


@pytest.mark.parametrize("name", ["after", "before"])
@pytest.mark.parametrize("place, reason", [
    ("100-0.00000000", "diverged"), ("100-5", "diverged"), ("9999-0", "ahead"),
])  # fmt: skip
def test_a_broken_place_is_410_with_the_reason(gateway, filled, name, place, reason):
    told = gateway.history(filled, f"?{name}={place}").problem(410)
    assert told["reason"] == reason
    assert told["first"].partition(".")[0] == "1-0" and told["last"].partition(".")[0] == "250-0"


def test_a_trimmed_place_is_410(redis, gateway, filled):
    redis.client.xtrim(key(filled), maxlen=10, approximate=False)
    assert gateway.history(filled, "?after=5-0").problem(410)["reason"] == "trimmed"


def test_a_page_never_skips_over_a_re_created_stream(redis, gateway, filled):
    page = gateway.history(filled, "?limit=50").json
    pipeline = redis.client.pipeline().delete(key(filled))
    for n in range(1, 251):
        pipeline.xadd(key(filled), {"data": "other"}, id=f"{n}-0")
    pipeline.execute()
    assert gateway.history(filled, f"?after={page['entries'][-1]['id']}").problem(410)["reason"] == "diverged"


def test_a_session_that_does_not_exist_is_404(gateway, session):
    gateway.history(session).problem(404)


def test_another_type_is_409(redis, gateway, session):
    redis.client.set(key(session), "x")
    gateway.history(session).problem(409)


@pytest.mark.parametrize("query", [
    "?limit=0", "?limit=1001", "?limit=x", "?limit=-1", "?limit=", "?after=x", "?before=", "?after=1-0&after=1-0", "?limit=1&limit=2",
    "?after=1-0&before=2-0",
])  # fmt: skip
def test_a_wrong_parameter_is_400(gateway, filled, query):
    gateway.history(filled, query).problem(400)


def test_a_giant_appears_as_skipped(redis, gateway, session):
    redis.add(session, data="before")
    big = redis.add(session, data="x" * 2_000_000)
    redis.add(session, data="after")
    page = gateway.history(session).json
    assert [entry.get("data") for entry in page["entries"]] == ["before", None, "after"]
    told = page["entries"][1]
    assert (told["type"], told["reason"], told["bytes"]) == ("skipped", "too_big", 2_000_004)
    assert told["offset"].partition(".")[0] == big


def test_a_page_holds_at_most_4_mib_and_says_more(redis, gateway, session):
    for n in range(60):
        redis.add(session, data=f"{n:03}" + "x" * 200_000)
    answer = gateway.history(session, "?limit=1000")
    assert len(answer.body) <= 4 * 1024 * 1024 and answer.json["more"] is True
    entries, at = [], "0"
    while True:
        page = gateway.history(session, f"?limit=1000&after={at}").json
        assert page["entries"]
        entries += page["entries"]
        at = entries[-1]["id"]
        if not page["more"]:
            break
    assert entries == wanted(redis, session)


def test_nothing_is_joined_in_pages(redis, gateway, session):
    redis.add_tokens(session, ["x"] * 50, "r")
    assert len(gateway.history(session).json["entries"]) == 50


def test_pages_are_not_cached(gateway, filled):
    assert "no-store" in gateway.history(filled).headers.get("cache-control", "")


# Waiting for what comes next


@pytest.fixture
def waiting(gateway):
    """`waiting(session, query)`: the answer to come."""
    pool = concurrent.futures.ThreadPoolExecutor()
    yield lambda session, query: pool.submit(gateway.history, session, query)
    pool.shutdown()


def test_a_page_with_something_on_it_does_not_wait(redis, gateway, filled):
    began = time.monotonic()
    page = gateway.history(filled, "?after=100-0&wait=60s").json
    assert len(page["entries"]) == 100 and time.monotonic() - began < 30


def test_an_empty_page_waits_for_the_next_entry(redis, gateway, filled, waiting):
    last = offset(redis.stream(filled)[-1])
    answer = waiting(filled, f"?after={last}&wait=60s")
    # Whether it comes before or during the wait makes no difference.
    redis.add(filled, data="next", response="r", n=251)
    page = answer.result(30).json
    assert [entry["data"] for entry in page["entries"]] == ["next"] and page["more"] is False
    again = gateway.history(filled, f"?after={page['entries'][0]['id']}&wait=100ms")
    assert again.status == 200 and again.json["entries"] == []


def test_a_session_that_does_not_exist_is_waited_for(redis, gateway, session, waiting):
    page = gateway.history(session, "?after=0&wait=50ms").json
    assert page == {"session": session, "entries": [], "first": None, "last": None, "more": False}
    answer = waiting(session, "?wait=60s")
    redis.add(session, data="first")
    assert [entry["data"] for entry in answer.result(30).json["entries"]] == ["first"]
    gateway.history(session + "-x", "?after=7-0&wait=60s").problem(410)


def test_a_page_that_waits_is_told_of_a_deletion(redis, gateway, filled, waiting):
    last = offset(redis.stream(filled)[-1])
    answer = waiting(filled, f"?after={last}&wait=60s")
    redis.client.delete(key(filled))
    assert answer.result(40).problem(410)["reason"] == "deleted"


def test_pages_that_wait_end_with_a_drain(redis, session, new_gateway):
    gateway = new_gateway(redis.url, "gw-w", "--drain-delay", "0s", "--drain-time", "1s")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(gateway.history, session, "?wait=60s")
        wait_for(lambda: gateway.metric("baton_sessions"), what="it waits")
        gateway.process.signal(signal.SIGTERM)
        assert answer.result(30).json["entries"] == []
        assert gateway.process.wait(20) == 0


@pytest.mark.parametrize("query", [
    "?wait=20", "?wait=61s", "?wait=-1s", "?wait=s", "?wait=1h", "?wait=", "?before=5-0&wait=1s", "?wait=1s&wait=1s",
])  # fmt: skip
def test_a_wait_of_another_form_is_refused(gateway, filled, query):
    gateway.history(filled, query).problem(400)
