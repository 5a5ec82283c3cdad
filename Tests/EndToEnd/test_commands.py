"""`baton publish` and `baton attach`, as a person or a script uses them."""

import json
import signal
import subprocess

import pytest
from support.checker import View, judge
from support.process import BATON, Process, free_port, wait_for
from support.producer import Model, Producer


def run(*arguments, input=None, seconds=60):
    return subprocess.run([BATON, *arguments], capture_output=True, input=input, timeout=seconds)


def told(redis, session):
    return [{name.decode(): value.decode() for name, value in fields} for _, fields in redis.stream(session)]


@pytest.fixture
def model():
    models = []

    def new(*arguments, **named):
        models.append(Model(*arguments, **named))
        return models[-1]

    yield new
    for one in models:
        one.kill()


def test_publish_over_a_gateway(redis, gateway, session):
    done = run("publish", session, "--url", gateway.url, input=b"a\nb\n")
    assert done.returncode == 0, done.stderr
    assert "".join(entry.get("data", "") for entry in told(redis, session) if entry.get("event", "token") == "token") == "a\nb\n"


def test_publish_refuses_a_wrong_session_name(redis):
    assert run("publish", "a/b/c", "--redis", redis.url, input=b"x\n").returncode == 64


def test_attach_prints_the_answers_text(redis, gateway, session):
    redis.add(session, event="start", response="r")
    redis.add_tokens(session, ["Hel", "lo ", "🙂"], "r")
    redis.add(session, event="note", data="not shown")
    redis.add(session, event="end", response="r")
    done = run("attach", session, "--url", gateway.url, "--until", "end")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().rstrip("\n") == "Hello 🙂"


def test_attach_shows_a_split_emoji_whole(redis, gateway, session):
    smile = "🙂".encode()
    redis.add(session, data=smile[:1], response="r", n=1)
    redis.add(session, data=smile[1:], response="r", n=2)
    redis.add(session, event="end", response="r")
    done = run("attach", session, "--url", gateway.url, "--until", "end")
    assert done.returncode == 0 and done.stdout.decode().rstrip("\n") == "🙂"


def test_attach_json_prints_frames(redis, gateway, session):
    redis.add_tokens(session, [f"w{n} " for n in range(50)], "r")
    redis.add(session, event="end", response="r")
    done = run("attach", session, "--url", gateway.url, "--until", "end", "--json", "--rollup", "off")
    assert done.returncode == 0, done.stderr
    view = View()
    for line in done.stdout.splitlines():
        view.feed(json.loads(line))
    assert judge(view, redis.stream(session), rollup=False) == 51


def test_attach_follows_an_answer_as_it_is_written(redis, gateway, session, tmp_path):
    with (tmp_path / "out").open("wb") as out:
        process = Process(tmp_path, "attach", [BATON, "attach", session, "--url", gateway.url, "--until", "end"], stdout=out)
        producer = Producer(redis, session, deltas=200, pause=0.002)
        producer.join()
        assert process.wait(30) == 0, process.logged()
    assert (tmp_path / "out").read_text().rstrip("\n") == "".join(f"w{n} " for n in range(1, 201)).rstrip("\n")


def test_attach_goes_on_elsewhere_when_its_gateway_is_killed(redis, new_gateway, session, tmp_path):
    first, second = new_gateway(redis.url, "gw-a"), new_gateway(redis.url, "gw-b")
    with (tmp_path / "out").open("wb") as out:
        arguments = [BATON, "attach", session, "--url", first.url, "--url", second.url, "--until", "end"]
        process = Process(tmp_path, "attach", arguments, stdout=out)
        producer = Producer(redis, session)
        wait_for(lambda: producer.written > 150 and (tmp_path / "out").stat().st_size > 300, 30, "a part of the answer")
        victim = first if first.metric("baton_devices") else second
        victim.kill()
        producer.join()
        assert process.wait(40) == 0, process.logged()
    assert (tmp_path / "out").read_text().rstrip("\n") == "".join(f"w{n} " for n in range(1, 601)).rstrip("\n")


def test_attach_tries_the_next_url(redis, gateway, session):
    redis.add_tokens(session, ["x"], "r")
    redis.add(session, event="end", response="r")
    dead = f"http://127.0.0.1:{free_port()}"
    done = run("attach", session, "--url", dead, "--url", gateway.url, "--until", "end")
    assert done.returncode == 0 and done.stdout.rstrip(b"\n") == b"x"


def test_attach_passes_offset_and_last(redis, gateway, session):
    ids = redis.add_tokens(session, ["a", "b", "c", "d"], "r")
    redis.add(session, event="end", response="r")
    after = run("attach", session, "--url", gateway.url, "--until", "end", "--offset", ids[1])
    newest = run("attach", session, "--url", gateway.url, "--until", "end", "--last", "2")
    assert after.stdout.rstrip(b"\n") == b"cd"
    assert newest.stdout.rstrip(b"\n") == b"d"


def test_attach_refused_for_good_says_why(redis, gateway, session):
    redis.client.set(f"baton:{{{session}}}", "x")
    done = run("attach", session, "--url", gateway.url, "--until", "end")
    assert done.returncode not in (0, None) and done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_attach_ends_on_a_signal(gateway, session, tmp_path, number):
    process = Process(tmp_path, "attach", [BATON, "attach", session, "--url", gateway.url, "--json"])
    wait_for(lambda: "\"attached\"" in process.logged(), 20, "attached")
    process.signal(number)
    process.wait(15)


def test_publish_and_attach_over_the_real_thing(redis, gateway, session, model, tmp_path):
    words = [f"w{n} " for n in range(150)]
    server = model(words, pause=0.002)
    with (tmp_path / "out").open("wb") as out:
        process = Process(tmp_path, "attach", [BATON, "attach", session, "--url", gateway.url, "--until", "end"], stdout=out)
        done = run("publish", session, "--redis", redis.url, "--openai", server.url, "--prompt", "x", "--model", "m")
        assert done.returncode == 0, done.stderr
        assert process.wait(30) == 0, process.logged()
    assert (tmp_path / "out").read_text().rstrip("\n") == "".join(words).rstrip("\n")
