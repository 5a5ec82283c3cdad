"""The articles for those who run Baton: their blocks run, their figures hold, their tables are what the programs say."""

import contextlib
import os
import re
import subprocess

import baton_stream._redis as package
import measure
import pytest
from redis import AuthenticationError, ResponseError
from redis import Redis as Client
from support.event_stream import EventStream
from support.process import BATON, BUILD, REPOSITORY, wait_for
from support.servers import HAProxy, Nginx, Redis, key, request
from support.step import Step
from support.tokens import bearer, token
from support.versions import COUNTS_ENTRIES
from support.webhooks import Receiver, secret
from test_relay import WORDS, Upstream, client, sparse

ARTICLES = REPOSITORY / "Sources/BatonGateway/BatonGateway.docc"
RUNNING = (ARTICLES / "RunningBaton.md").read_text()
OPTIONS = (ARTICLES / "OptionsAndLimits.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: ([\w-]+) -->\n```\w*\n(.*?)```", RUNNING, re.S))


def shell(block, redis=None, folder=REPOSITORY):
    text = BLOCKS[block].replace("baton serve", f"{BATON} serve")
    if redis:
        text = text.replace("redis-cli ", f"redis-cli -e -p {redis.port} ").replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_run():
    tested = set(re.findall(r'(?:shell\("|BLOCKS\[")([\w-]+)"', open(__file__).read()))
    assert set(BLOCKS) <= tested, set(BLOCKS) - tested
    # And none is without a mark.
    assert RUNNING.count("\n```") == 2 * (len(BLOCKS) + 1)


def test_check(redis):
    assert "all that it needs" in shell("check", redis)


def test_the_systemd_files_are_installed_as_said(tmp_path):
    text = BLOCKS["systemd"].replace(".build/release", str(BUILD))
    text = re.sub(r" /(usr|etc)", rf" {tmp_path}/\1", text)
    for folder in ("usr/local/bin", "etc/systemd/system"):
        (tmp_path / folder).mkdir(parents=True)
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=REPOSITORY, check=True)
    told = subprocess.run([tmp_path / "usr/local/bin/baton", "--version"], capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.strip()
    assert (tmp_path / "etc/baton/baton.env").stat().st_mode & 0o777 == 0o600


def test_redis_settings(tmp_path, started, session, attach, new_gateway):
    """Redis takes them, and a gateway gets its notices there."""
    (tmp_path / "redis.conf").write_text(BLOCKS["redis"])
    settings = [word for line in BLOCKS["redis"].splitlines() if line and line[0] != "#"
                for word in (lambda name, *values: (f"--{name}", " ".join(values)))(*line.split())]  # fmt: skip
    started.append(Redis(tmp_path, "redis-running", *settings))
    redis = started[-1]
    assert redis.client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert redis.client.config_get("appendonly")["appendonly"] == "yes"
    gateway = new_gateway(redis.url, "gw-running", "--wakeup", "tracking")
    attach(gateway, session).until_live().until_at(redis.add(session, data="x"))


def use_everything(gateway, session, producer_url):
    """Whatever a gateway and a producer ever do in Redis, in short."""
    done = subprocess.run([BATON, "publish", session, "--redis", producer_url, "--response", "r1"], input="One\ntwo\n", text=True,
                          capture_output=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    json, lines = {"Content-Type": "application/json", "Idempotency-Key": "k"}, {"Content-Type": "application/x-ndjson"}
    for again in (False, True):
        told = gateway.request("POST", f"/v1/sessions/{session}", '{"data":"x"}', json)
        assert told.status == 201 and ("idempotent-replayed" in told.headers) == again
    body = '{"response":"u","n":1,"data":"x"}\n{"response":"u","event":"end"}\n'
    assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1", body, lines).status == 201
    assert gateway.get(f"/v1/sessions/{session}/responses/u").json["state"] == "end"
    page = gateway.history(session).json
    assert len(page["entries"]) > 3
    assert len(gateway.history(session, f"?before={page['last']}&limit=2").json["entries"]) == 2


def grant(redis):
    shell("acl", redis)
    if not COUNTS_ENTRIES:
        redis.client.execute_command("ACL", "SETUSER", "baton-producer", "+xinfo|stream")


def test_the_rights_are_enough_and_each_is_needed(tmp_path, new_redis, new_gateway, session, attach):
    redis = new_redis("redis-acl")
    grant(redis)
    url = redis.url.replace("://", "://baton-gateway:gateway-password@")
    producer_url = redis.url.replace("://", "://baton-producer:producer-password@")
    check = lambda: subprocess.run([BATON, "serve", "--check", "--redis", url], capture_output=True, text=True)  # noqa: E731
    assert check().returncode == 0, check().stderr
    gateway = new_gateway(url, "gw-acl")
    device = attach(gateway, session).until_live()
    use_everything(gateway, session, producer_url)
    device.send({"type": "input", "key": "k1", "data": "more"})
    device.until_type("accepted")
    device.send({"type": "cancel", "key": "k2", "response": "r1"})
    device.until_type("accepted")
    wait_for(lambda: gateway.metric("baton_wakeup", mode="tracking") == 1, 20, "notices are in use")
    assert gateway.request("DELETE", f"/v1/sessions/{session}").status == 204
    assert redis.client.execute_command("ACL", "LOG") == [], "a right is missing"
    # PING, ROLE and CLIENT SETNAME are nice to have, and what a check would need them for is done by others.
    line = next(line for line in BLOCKS["acl"].replace("\\\n", " ").splitlines() if "baton-gateway" in line)
    for right in re.findall(r"\+([\w|]+)", line):
        # Redis 6 takes away whole commands alone.
        if right in ("ping", "role", "client|setname") or "|" in right and not COUNTS_ENTRIES:
            continue
        redis.client.execute_command("ACL", "SETUSER", "baton-gateway", f"-{right}")
        told = check()
        assert told.returncode == 78 and right.replace("|", " ").upper() in told.stderr, (right, told.stderr)
        redis.client.execute_command("ACL", "SETUSER", "baton-gateway", f"+{right}")


def produce(client, redis, session):
    """All that the atomic step and an inbox ask of Redis, each by a call of its own: what is refused stops no other."""
    name = f"{key(session)}:producers"
    fill = lambda: redis.client.hset(name, mapping={f"old{n}": "1 1 end - 1-1 0" for n in range(1023 - redis.client.hlen(name))})  # noqa: E731
    for step in (
        lambda: client.ping(), lambda: client.execute_command("ROLE"), lambda: client.info("server"), lambda: client.client_setname("p"),
        lambda: client.evalsha("0" * 40, 0), lambda: Called(client, session).open("r", "w.1", 1, [("deltas", "a", "b")]),
        # With each 1024th response those whose entries were trimmed away are forgotten.
        fill, lambda: Called(client, session).open("s", "w.1", 1, [("deltas", "a")]),
        # The state is gone, the stream is not.
        lambda: redis.client.delete(name), lambda: Called(client, session).append("r", "w.2", 3, [("deltas", "c")]),
        lambda: Called(client, session).put("both", ["event", "input", "data", "x"], scope="k"), lambda: client.xread({f"{key(session)}:inbox": "0-0"}),
        lambda: client.xrange(key(session), count=1), lambda: Called(client, session).delete(),
    ):  # fmt: skip
        with contextlib.suppress(ResponseError):
            step()


class Called(Step):
    """By EVAL: a producer may not load scripts."""

    def __init__(self, client, session):
        super().__init__(client, session)
        self.script = lambda keys, args: client.eval(package.SCRIPT, len(keys), *keys, *args)


def test_each_right_of_a_producer_is_needed(new_redis, session):
    redis = new_redis("redis-acl-producer")
    grant(redis)
    # What a client library tells of itself (CLIENT SETINFO) is no right that anybody needs.
    client = Client(port=redis.port, protocol=2, username="baton-producer", password="producer-password", lib_name=None, lib_version=None)
    produce(client, redis, session)
    assert redis.client.execute_command("ACL", "LOG") == [], "a right is missing"
    line = next(line for line in BLOCKS["acl"].replace("\\\n", " ").splitlines() if "baton-producer" in line)
    rights = re.findall(r"\+([\w|]+)", line)
    assert len(rights) > 20
    for right in rights:
        if "|" in right and not COUNTS_ENTRIES:
            continue
        redis.client.execute_command("ACL", "SETUSER", "baton-producer", f"-{right}")
        redis.client.execute_command("ACL", "LOG", "RESET")
        produce(client, redis, f"{session}-{right.replace('|', '-')}")
        refused = {one[index + 1].decode() for one in redis.client.execute_command("ACL", "LOG") for index, word in enumerate(one) if word == b"object"}
        assert refused == {right}, right
        redis.client.execute_command("ACL", "SETUSER", "baton-producer", f"+{right}")


@pytest.mark.parametrize("user", ["baton-gateway", "baton-producer"])
def test_other_keys_channels_and_commands_are_nobodys(new_redis, session, user):
    redis = new_redis(f"redis-{user}")
    grant(redis)
    redis.client.set("elsewhere", "x")
    client = Client(port=redis.port, protocol=2, username=user, password=f"{user[6:]}-password")
    for command in ("GET elsewhere", "XADD elsewhere * a b", "XRANGE baton:x - +", "DEL elsewhere", "KEYS *", "SCAN 0", "FLUSHALL", "CONFIG GET *", "ACL LIST", "SCRIPT FLUSH",
                    "FUNCTION LIST", "DEBUG SLEEP 0", "SHUTDOWN", "REPLICAOF NO ONE", "CLIENT LIST", "CLIENT KILL ID 1", "MONITOR", "SUBSCRIBE other", "PSUBSCRIBE *",
                    "PUBLISH other x", "SWAPDB 0 1", "MIGRATE h 1 k 0 1", "EVAL return(redis.call('GET','elsewhere')) 0", "RENAME baton:{a} elsewhere", "SORT elsewhere"):  # fmt: skip
        with pytest.raises(ResponseError, match="(?i)noperm|no permissions|can't run this command|acl"):
            client.execute_command(*command.split(" "))
            pytest.fail(f"{user} may {command}")
        client.connection_pool.disconnect()
    with pytest.raises(AuthenticationError):
        Client(port=redis.port, protocol=2, username=user, password="wrong").ping()


def test_webhooks_need_a_little_more(new_redis, new_gateway, session):
    redis, receiver = new_redis("redis-acl-hooks"), Receiver(SECRET := secret())
    grant(redis)
    url = redis.url.replace("://", "://baton-gateway:gateway-password@")
    producer_url = redis.url.replace("://", "://baton-producer:producer-password@")
    options, env = ["--redis", url, "--webhook", receiver.url], {**os.environ, "BATON_WEBHOOK_SECRET": SECRET}
    check = lambda: subprocess.run([BATON, "serve", "--check", *options], capture_output=True, text=True, env=env)  # noqa: E731
    assert "PUBLISH baton:webhooks" in check().stderr
    shell("acl-webhooks", redis)
    assert check().returncode == 0, check().stderr
    redis.client.execute_command("ACL", "LOG", "RESET")
    gateway = new_gateway(url, "gw-acl-hooks", *options[2:], env=env)
    use_everything(gateway, session, producer_url)
    assert gateway.request("POST", f"/v1/sessions/{session}/input", '{"data":"x"}', {"Content-Type": "application/json"}).status == 202
    wait_for(lambda: sorted(event["type"] for event in receiver.of(session)) == ["end", "end", "input"], 30, "all is told")
    wait_for(lambda: gateway.metric("baton_webhooks_pending") == 0, 30, "all is done")
    assert redis.client.execute_command("ACL", "LOG") == [], "a right is missing"
    line = next(line for line in BLOCKS["acl-webhooks"].splitlines() if "baton-gateway" in line)
    for right in re.findall(r"\+([\w|]+)", line):
        redis.client.execute_command("ACL", "SETUSER", "baton-gateway", f"-{right}")
        told = check()
        assert told.returncode == 78 and right.upper() in told.stderr, (right, told.stderr)
        redis.client.execute_command("ACL", "SETUSER", "baton-gateway", f"+{right}")
    receiver.close()


def test_counted_sessions_need_a_little_more(new_redis, new_gateway, secret, session):
    redis = new_redis("redis-acl-sessions")
    shell("acl", redis)
    url = redis.url.replace("://", "://baton-gateway:gateway-password@")
    options = ["--auth-secret-file", secret, "--tenant-claim", "tenant", "--max-sessions-per-tenant", "2"]
    check = lambda: subprocess.run([BATON, "serve", "--check", "--redis", url, *options], capture_output=True, text=True)  # noqa: E731
    assert "ZADD baton:{}:sessions" in check().stderr
    shell("acl-sessions", redis)
    assert check().returncode == 0, check().stderr
    redis.client.execute_command("ACL", "LOG", "RESET")
    gateway = new_gateway(url, "gw-acl-sessions", *options)
    headers = {"Content-Type": "application/json", **bearer(token(tenant="a"))}
    statuses = [gateway.request("POST", f"/v1/sessions/{session}-{n}", '{"data":"x"}', headers).status for n in range(3)]
    assert statuses == [201, 201, 429]
    assert gateway.request("DELETE", f"/v1/sessions/{session}-0", headers=headers).status == 204
    assert gateway.request("POST", f"/v1/sessions/{session}-2", '{"data":"x"}', headers).status == 201
    assert redis.client.execute_command("ACL", "LOG") == [], "a right is missing"
    for right in re.findall(r"\+([\w|]+)", BLOCKS["acl-sessions"]):
        redis.client.execute_command("ACL", "SETUSER", "baton-gateway", f"-{right}")
        told = check()
        assert told.returncode == 78 and right.upper() in told.stderr, (right, told.stderr)
        redis.client.execute_command("ACL", "SETUSER", "baton-gateway", f"+{right}")


def test_alert_rules():
    shell("alerts")
    rules = (REPOSITORY / "Deploy/prometheus/baton.rules.yml").read_text()
    tests = (REPOSITORY / "Deploy/prometheus/baton.rules.test.yml").read_text()
    for alert in re.findall(r"alert: (\w+)", rules):
        assert tests.count(f"alertname: {alert}\n") == 1 and tests.count(f"alertname: {alert}}}") == 1, alert


def test_metrics_that_are_named_are_there(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-named")
    attach(gateway, session).until_live()
    source = (REPOSITORY / "Sources/BatonGateway/Metrics/GatewayMetrics.swift").read_text()
    known = set(re.findall(r'"(baton_\w+)":', source))
    exposed = set(re.findall(r"^# TYPE (\S+)", gateway.get("/metrics").body.decode(), re.M))
    rules = (REPOSITORY / "Deploy/prometheus/baton.rules.yml").read_text()
    for name in set(re.findall(r"baton_[a-z_]+", RUNNING + rules)):
        assert name.removesuffix("_bucket") in known, name
    # What is counted by a reason is there from the first of its kind on.
    assert known - exposed <= {"baton_http_refusals_total", "baton_accept_pauses_total", "baton_websocket_violations_total"}


@pytest.mark.parametrize("kind", [HAProxy, Nginx])
def test_the_tls_lines_are_taken_from_both_files(tmp_path, kind):
    text = BLOCKS["tls"].replace("Deploy/", f"{REPOSITORY}/Deploy/")
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, check=True)
    made = (tmp_path / ("haproxy.cfg" if kind is HAProxy else "baton.conf.template")).read_text()
    assert "#tls" not in made and " ssl" in made


def test_time_to_live(redis):
    redis.client.delete("baton:{chat-42}")
    redis.client.xadd("baton:{chat-42}", {"data": "x"})
    assert shell("ttl", redis).split() == ["-1", "1"]
    assert redis.client.ttl("baton:{chat-42}") > 86000


def test_what_devices_see_after_a_restore(new_redis, new_gateway, session, attach):
    redis = new_redis("redis-restored", "--dbfilename", "dump.rdb")
    for n in range(5):
        redis.add(session, data=f"kept {n}")
    shell("backup", redis)
    gateway = new_gateway(redis.url, "gw-restored")
    device = attach(gateway, session).until_live()
    lost = redis.add(session, data="lost")
    device.until_at(lost)
    redis.kill()
    redis.start()
    reset = device.until_type("reset")
    assert reset["reason"] == "ahead"
    device.until_live()
    device.judge(redis.stream(session))
    late = attach(gateway, session, offset=lost)
    assert late.until_type("reset")["reason"] == "ahead"
    redis.add(session, data="new")
    other = attach(gateway, session, offset=lost)
    assert other.until_type("reset")["reason"] in ("diverged", "ahead")


def test_a_key_is_made(tmp_path):
    shell("key", folder=tmp_path)
    assert (tmp_path / "auth.secret").stat().st_size >= 32


def test_devices_get_over_a_change_of_keys(tmp_path, redis, new_gateway, session):
    keys = [tmp_path / name for name in ("old", "new")]
    for number, key in enumerate(keys):
        key.write_text(f"{number}" * 48)
    tokens = [subprocess.run([BATON, "token", "--secret-file", key, "--subject", "s", "--sessions", "*"], capture_output=True,
                             text=True, check=True).stdout.strip() for key in keys]  # fmt: skip
    gateways = [new_gateway(redis.url, f"gw-key-{n}", "--auth-secret-file", str(key)) for n, key in enumerate(keys)]
    redis.add(session, data="x")
    statuses = [[gateway.get(f"/v1/sessions/{session}", Authorization=f"Bearer {token}").status for token in tokens] for gateway in gateways]
    assert statuses == [[200, 401], [401, 200]]


def test_memory_is_as_said(tmp_path, redis):
    """Within a factor of two: other allocators, other versions of Redis."""
    told = re.search(r"<!-- measured: memory -->\n```\n(.*?)```", RUNNING, re.S)[1]
    device, bare, window = (float(line.split(": ")[1].split()[0]) for line in told.splitlines())
    assert device / 2 < measure.device_bytes(redis, tmp_path, 1000) / 1024 < device * 2
    assert bare / 2 < measure.bare_answer_bytes(redis) / 1000 < bare * 2
    # Producers that are quicker join more, which takes less.
    assert measure.produced_answer_bytes(redis, 1000) / 1000 < window * 2


# MARK: options and limits


ANSWER = re.compile(r"(refused with \d{3}|ended with \d{3}|after it \d{3}|below it \d{3}|closed at once|close with \d{4}|answered with rate_limited|none is accepted|; likewise;)")


def test_each_limit_has_a_name_a_default_a_metric_and_an_answer(gateway):
    measured = set(re.findall(r'^baton_limits_exceeded_total\{limit="(.*?)"\} ', gateway.get("/metrics").body.decode(), re.M))
    counts = re.search(r"### How many, how often\n(.*?)\n### ", OPTIONS, re.S)[1]
    rows = dict(re.findall(r"^\| `--([\w-]+)[^|]*` \| (.*)$", OPTIONS, re.M))
    assert set(re.findall(r"^\| `--([\w-]+)", counts, re.M)) <= measured <= set(rows)
    for name in measured:
        assert rows[name].startswith("`") or "default: " in rows[name], name
        assert ANSWER.search(rows[name]), name


def help_options():
    text = subprocess.run([BATON, "serve", "--help"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "2000"}).stdout
    return {name: (value, told) for name, value, told in re.findall(r"^  --(\S+)(?: (\S.*))?\n      (.*)\n      BATON_\w+$", text, re.M)}


def article_options():
    rows = re.findall(r"^\| `--(\S+?)(?: (.*?))?` \| (?:`(.*?)`)? ?\| .*? \| (.*) \|$", OPTIONS, re.M)
    return {name: (value.replace("\\|", "|"), told + (f" ({default})" if default else "")) for name, value, default, told in rows}


def test_the_article_has_every_option_of_the_help_and_no_other():
    helped, written = help_options(), article_options()
    assert len(helped) > 30
    assert written == helped


@pytest.mark.parametrize("name, least", re.findall(r"^\| `--([\w-]+) [^|]*` \| [^|]* \| (\d+(?:ms|s|KiB|MiB)?)(?: to [\d,]+)? \|", OPTIONS, re.M))
def test_the_least_value_is_the_least(name, least):
    def run(value):
        return subprocess.run([BATON, "serve", "--print-config", f"--{name}", value], capture_output=True, text=True)

    assert run(least).returncode == 0, run(least).stderr
    if not least.startswith("0"):
        below = {"1s": "999ms", "100ms": "99ms", "1ms": "0ms", "1KiB": "1023", "1MiB": "1048575", "1": "0"}[least]
        assert run(below).returncode == 78 and f"--{name}" in run(below).stderr


def test_the_largest_count_is_the_largest():
    for name, most in re.findall(r"^\| `--([\w-]+) N` \| [^|]* \| 1 to ([\d,]+) \|", OPTIONS, re.M):
        most = int(most.replace(",", ""))
        for value, status in ((most, 0), (most + 1, 78)):
            assert subprocess.run([BATON, "serve", "--print-config", f"--{name}", str(value)], capture_output=True).returncode == status, name


def test_nodes_of_two_kinds_behind_haproxy(tmp_path, redis, started, new_gateway, session):
    model = Upstream(sparse())
    nodes = {role: new_gateway(redis.url, f"gw-{role}", "--roles", role, "--openai", model.url) for role in ("attach", "relay")}
    edit = lambda text: text.replace("  default_backend gateways\n", BLOCKS["roles"])  # noqa: E731
    started.append(HAProxy(tmp_path, [nodes["attach"]] * 2, edit, {"BATON_RELAY_1": nodes["relay"].address}))
    proxy = started[-1]
    wait_for(lambda: request(proxy.port, "GET", "/v1/models").status == 200, 20, "HAProxy has a relay")
    answer = client(proxy).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    assert answer.output_text == "".join(WORDS) and client(proxy).responses.retrieve(answer.id).output_text == "".join(WORDS)
    stream = EventStream(proxy, session, until="end")
    assert stream.status == 200 and wait_for(lambda: stream.ended, 20) and stream.view.text == "".join(WORDS)
