"""What the README says runs: its marked blocks as they are, but for the ports and the folder of the build."""

import os
import re
import subprocess
import sys

import pytest
from support.lossy import LossyRedis
from support.process import BATON, REPOSITORY, Process, wait_for
from support.producer import Model

README = (REPOSITORY / "README.md").read_text()
ARTICLE = (REPOSITORY / "Sources/BatonProtocol/BatonProtocol.docc/AppendScript.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: ([\w-]+) -->\n```\w+\n(.*?)```", README, re.S))
STEP = re.search(r"<!-- tested: step -->\n```python\n(.*?)```", ARTICLE, re.S)[1]
PACKAGE = {"PYTHONPATH": str(REPOSITORY / "Sources/BatonPython")}
COMPILED = dict(re.findall(r"<!-- compiled: (\S+) -->\n```swift\n(.*?)```", README, re.S))


def command(block, redis, gateway):
    text = re.sub(r"\.build/release/baton( publish)?", lambda found: BATON + (f" publish --redis {redis.url}" if found[1] else ""), block)
    text = text.replace("redis-cli ", f"redis-cli -p {redis.port} ").replace("redis.Redis()", f"redis.Redis(port={redis.port})")
    text = text.replace("127.0.0.1:8080", gateway.address).replace("redis://127.0.0.1:6379/0", redis.url)
    is_python = re.match(r"import |from ", text)
    return [sys.executable, "-c", text] if is_python else ["bash", "-euo", "pipefail", "-c", text]


def run(block, redis, gateway, **environment):
    done = subprocess.run(command(block, redis, gateway), env={**os.environ, **PACKAGE, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh(redis):
    redis.client.delete("baton:{chat-42}")
    return redis


@pytest.mark.parametrize("name, text", [
    ("redis-cli", "Hello, world."), ("python", "One more answer."), ("step", "One more answer."), ("publish", "One line\nis one delta.\n"),
])  # fmt: skip
def test_each_producer_reaches_the_terminal(fresh, gateway, name, text):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    run({**BLOCKS, "step": STEP}[name], fresh, gateway)
    assert run(BLOCKS["attach"], fresh, gateway).rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize("block", [STEP, BLOCKS["python"]], ids=["article", "readme"])
def test_a_lost_reply_doubles_nothing(fresh, gateway, block):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    lossy = LossyRedis(fresh, lambda said: b"more " in said and not lossy.lost)
    run(block, lossy, gateway)
    assert lossy.lost
    texts = [fields[b"data"] for _, fields in fresh.client.xrange("baton:{chat-42}") if b"n" in fields]
    assert b"".join(texts) == b"One more answer."
    assert fresh.client.ttl("baton:{chat-42}") > 0


def test_a_bare_append_that_was_sent_twice_is_shown_once(fresh, gateway):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    for n, token in [(1, "One "), (2, "more "), (2, "more "), (3, "answer.")]:
        fresh.add("chat-42", response="r2", n=str(n), data=token)
    fresh.add("chat-42", response="r2", event="end")
    assert run(BLOCKS["attach"], fresh, gateway).rstrip("\n") == "One more answer."


def test_the_python_producer_and_device_talk(fresh, gateway, tmp_path):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers", "baton:{chat-42}:inbox", "baton:{chat-42}:keys")
    producer = Process(tmp_path, "producer", command(BLOCKS["python-producer"], fresh, gateway), env=PACKAGE)
    wait_for(lambda: fresh.client.xlen("baton:{chat-42}") >= 2, 20, "the answer has begun")
    assert run(BLOCKS["python-device"], fresh, gateway).strip() == "Count with me. Four! cancelled"
    assert producer.wait(20) == 0, producer.logged()


def test_a_stream_of_openai_is_published(fresh, gateway):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    model = Model(["Hello ", "to ", "you."])
    run(BLOCKS["python-openai"], fresh, gateway, OPENAI_BASE_URL=model.url, OPENAI_API_KEY="none")
    model.kill()
    assert run(BLOCKS["attach"], fresh, gateway).rstrip("\n") == "Hello to you."
    assert b"\"finish_reason\": \"stop\"" in fresh.client.xrevrange("baton:{chat-42}", count=1)[0][1][b"data"]


def test_history_is_one_page(fresh, gateway):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    run(BLOCKS["redis-cli"], fresh, gateway)
    assert "\"entries\"" in run(BLOCKS["history"], fresh, gateway)


def test_what_is_recorded_is_judged(fresh, gateway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run(BLOCKS["check"], fresh, gateway)
    assert "One line\nis one delta.\n" in told and re.search(r"^  lost +0$", told, re.M), told


def test_a_token_is_made_and_taken(tmp_path, redis, new_gateway):
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", BLOCKS["token"].replace(".build/release/baton", BATON)], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    gateway = new_gateway(redis.url, "gw-token", "--auth-secret-file", str(tmp_path / "secret"))
    assert gateway.get("/v1/sessions/chat-7").status == 401
    bearer = {"Authorization": f"Bearer {done.stdout.strip()}"}
    assert gateway.get("/v1/sessions/chat-42", **bearer).status in (200, 404)
    assert gateway.get("/v1/sessions/team-9", **bearer).status in (200, 404)
    assert gateway.get("/v1/sessions/chat-7", **bearer).status == 403


def test_the_inbox_is_read(fresh, gateway, attach):
    fresh.client.delete("baton:{chat-42}:inbox")
    device = attach(gateway, "chat-42").until_live()
    device.send({"type": "input", "key": "k", "data": "Shorter, please."})
    device.until_type("accepted")
    assert "Shorter, please." in run(BLOCKS["inbox"], fresh, gateway)


@pytest.mark.parametrize("file", sorted(COMPILED))
def test_swift_code_is_compiled(file):
    """The suite of that file runs it; only addresses differ."""
    block = COMPILED[file].replace('"redis://127.0.0.1:6379/0"', "server.unixURL").replace('"http://127.0.0.1:8080"', "gateway.url")
    lines = [line.strip() for line in (REPOSITORY / file).read_text().splitlines()]
    wanted = [line.strip() for line in block.strip().splitlines()]
    assert any(lines[at : at + len(wanted)] == wanted for at in range(len(lines))), block


def test_every_block_is_run():
    known = {"pip", "python-producer", "python-openai", "python-device", "redis-cli", "python", "publish", "attach", "browser", "react", "history", "answer-back", "inbox", "token", "check"}
    assert set(BLOCKS) == known


@pytest.mark.parametrize("word", sorted(set(re.findall(r"^Tests/run (\w+)", README, re.M))))
def test_a_part_of_the_tests_exists(word):
    assert f"#   Tests/run {word}" in (REPOSITORY / "Tests/run").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target):
    assert (REPOSITORY / target).exists(), target
