"""What Redis says and does besides answering: told to whom it concerns, and no more than it means."""

import re
import subprocess

import pytest
from support.process import BATON, wait_for
from support.servers import key


def refused(gateway, words, times=1):
    """Waits until the gateway has logged why it has no connection, in these words."""
    wait_for(lambda: len(re.findall(words, gateway.process.logged())) >= times, 20, f"a log line with {words!r}")
    answer = gateway.get("/readyz")
    assert answer.status == 503, answer.body


def test_an_address_where_nobody_listens_is_refused_by_name(new_gateway):
    refused(new_gateway("redis://127.0.0.1:1", ready=False), r"127\.0\.0\.1:1 refused")


def test_a_server_without_room_says_so(new_redis, new_gateway):
    redis = new_redis()
    redis.client.config_set("maxclients", 1)
    refused(new_gateway(redis.url, ready=False), "max number of clients reached")


@pytest.mark.parametrize(("login", "words"), [
    ("", "NOAUTH"), (":wrong@", "WRONGPASS"), ("s3same@", None), (":s3same@", None), ("default:s3same@", None), ("ann:@", None),
    ("ann@", "WRONGPASS.*redis://USER:@HOST"),
])  # fmt: skip
def test_a_login_is_taken_or_refused_in_words(new_redis, new_gateway, session, attach, login, words):
    redis = new_redis()
    redis.client.acl_setuser("ann", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all"])
    redis.client.config_set("requirepass", "s3same")
    url = f"redis://{login}127.0.0.1:{redis.port}"
    gateway = new_gateway(url, ready=words is None)
    if words:
        refused(gateway, words)
    else:
        redis.client.auth("s3same")
        device = attach(gateway, session).until_live()
        device.until_at(redis.client.xadd(key(session), {"data": "x"}).decode())
    assert "s3same" not in gateway.process.logged()


@pytest.mark.parametrize("form", [
    "valkey://127.0.0.1:{port}", "redis://127.0.0.1:{port}/0/", "redis://127.0.0.1:{port}/0\n", "redis://127.0.0.1:{port}?protocol=2&timeout=5",
])  # fmt: skip
def test_urls_that_others_write_are_taken(new_redis, new_gateway, form):
    assert new_gateway(form.format(port=new_redis().port)).get("/readyz").status == 200


@pytest.mark.parametrize(("url", "words"), [
    ("redis://u:sec/ret@127.0.0.1", "write %2F for '/'"), ("redis://u:sec?ret@127.0.0.1", "write %3F for '?'"),
    ("rediss://127.0.0.1?ssl_cert_reqs=none", "ssl_cert_reqs"), ("redis://127.0.0.1?max_idle=3", "max_idle"),
])  # fmt: skip
def test_a_url_that_can_not_be_taken_says_what_to_mend(url, words):
    done = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", url], capture_output=True, text=True, timeout=20)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and words in told and "ret@" not in told, told
