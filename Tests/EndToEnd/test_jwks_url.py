"""Section 3: keys at a URL: fetched for an unknown `kid`, seldom, once at a time, and kept while the URL fails."""

import json
import signal
import threading

import pytest
from support.app import App
from support.process import wait_for
from support.tokens import bearer
from test_keys import PRIVATE, jwk, status, token


def keys(*algorithms, **members):
    return {"keys": [jwk(algorithm, **members) for algorithm in algorithms]}


@pytest.fixture
def app(started):
    started.append(App(keys("ES256")))
    return started[-1]


def test_keys_are_fetched_at_the_start(redis, app, session, attach, new_gateway):
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    assert len(app.asked) == 1 and "authorization" not in app.asked[0]
    attach(gateway, session, headers=bearer(token("ES256"))).until_live()
    assert status(gateway, token("ES256", kid=None)) == 404
    assert status(gateway, token("ES256")[:-8] + "AAAAAAAA") == 401
    gateway.request("GET", "/v1/sessions/absent").problem(401)


def test_an_unknown_kid_fetches_them_again_but_seldom(redis, app, new_gateway):
    app.answer = 500
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    app.answer = keys("ES256")
    # None were there yet: asked again within seconds, once for all.
    wait_for(lambda: status(gateway, token("ES256")) == 404, 20, "the first keys")
    app.answer, count = keys("ES256", "RS256"), len(app.asked)
    for _ in range(20):
        assert status(gateway, token("RS256")) == 401
    assert len(app.asked) == count
    wait_for(lambda: status(gateway, token("RS256")) == 404, 45, "the next fetch")
    assert len(app.asked) == count + 1


def test_many_wait_for_one_fetch(redis, app, new_gateway):
    app.answer = 500
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    held, answers, count = threading.Event(), [], len(app.asked)

    def answer(_):
        held.wait(20)
        return keys("ES256")

    app.answer = answer
    wait_for(lambda: status_soon(gateway, answers) and len(app.asked) > count, 20, "the fetch")
    threads = [threading.Thread(target=lambda: answers.append(status(gateway, token("ES256")))) for _ in range(5)]
    for thread in threads:
        thread.start()
    held.set()
    for thread in threads:
        thread.join()
    wait_for(lambda: answers.count(404) >= 5, 20, "all answers")
    assert len(app.asked) == count + 1


def status_soon(gateway, answers):
    """Asks beside the test."""
    threading.Thread(target=lambda: answers.append(status(gateway, token("ES256"))), daemon=True).start()
    return True


def test_keys_stay_while_the_url_fails(redis, app, new_gateway):
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    app.kill()
    assert status(gateway, token("RS256")) == 401 and status(gateway, token("ES256")) == 404
    app.start()
    app.answer = 404
    gateway.process.signal(signal.SIGHUP)
    wait_for(lambda: len(app.asked) == 2, 20, "SIGHUP fetches them")
    assert status(gateway, token("ES256")) == 404


RUBBISH = {
    "nothing": "", "no JSON": "{", "another type": "[]", "no keys": "{}", "keys of another type": '{"keys":{}}', "no key": '{"keys":[]}',
    "numbers": '{"keys":[1,2,3]}', "half a key": '{"keys":[{"kty":"RSA","n":7,"e":1}]}', "a weak key": '{"keys":[{"kty":"RSA","n":"AQ","e":"AQ","kid":"k-RS256"}]}',
    "an exponent of one": '{"keys":[{"kty":"RSA","n":"' + "x" * 342 + '","e":"AQ","kid":"k-RS256"}]}', "no point": '{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}',
    "a short secret": '{"keys":[{"kty":"oct","k":"AA"}]}', "depth": "[" * 500_000, "depth in a key": '{"keys":[{"kty":"EC","x":' + "[" * 100_000 + "]" * 100_000 + "}]}",
    "2 MiB": '{"keys":[' + " " * (2 << 20) + "]}", "2 MiB of keys": json.dumps({"keys": [{"kty": "oct", "k": "x" * 100}] * 20_000}), "huge numbers": '{"keys":[{"kty":1e400}]}',
}  # fmt: skip


def test_rubbish_from_the_url_changes_nothing(redis, app, new_gateway):
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    memory = gateway.process.rss()
    for name, text in RUBBISH.items():
        app.answer, count = lambda handler, text=text: handler.say(200, text), len(app.asked)
        gateway.process.signal(signal.SIGHUP)
        wait_for(lambda: len(app.asked) > count, 20, f"they are fetched: {name}")
        wait_for(lambda: gateway.process.logged().count("keys of tokens were read again") >= len(app.asked) - 1, 20, name)
        assert status(gateway, token("ES256")) == 404, name
    for answer in (301, 401, 500):
        app.answer, count = answer, len(app.asked)
        gateway.process.signal(signal.SIGHUP)
        wait_for(lambda: len(app.asked) > count, 20, f"they are fetched: {answer}")
        assert status(gateway, token("ES256")) == 404
    assert gateway.process.rss() - memory < 64 << 20 and max(map(len, gateway.process.logged().splitlines())) < 4096


def test_sighup_takes_keys_away(redis, app, new_gateway):
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    assert status(gateway, token("ES256")) == 404
    app.answer = keys("RS256")
    gateway.process.signal(signal.SIGHUP)
    wait_for(lambda: status(gateway, token("ES256")) == 401, 20, "the old key is gone")
    assert status(gateway, token("RS256")) == 404


def test_without_keys_it_is_503_not_401(redis, app, new_gateway):
    app.answer = 500
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    gateway.request("GET", "/v1/sessions/absent", headers=bearer(token("ES256"))).problem(503)
    gateway.request("GET", "/v1/sessions/absent").problem(401)
    wait_for(lambda: "no keys from --auth-jwks-url" in gateway.process.logged(), 10, "a line about it")


def test_no_url_of_a_token_is_fetched(redis, app, started, new_gateway):
    import jwt

    started.append(App(keys("ES256")))
    other = started[-1]
    gateway = new_gateway(redis.url, "gw-url", "--auth-jwks-url", app.url)
    claims = jwt.decode(token("ES256"), options={"verify_signature": False})
    given = jwt.encode(claims, PRIVATE["RS256"], "RS256", {"kid": "k-RS256", "jku": other.url, "x5u": other.url, "jwk": jwk("RS256")})
    assert status(gateway, given) == 401
    assert other.asked == []
