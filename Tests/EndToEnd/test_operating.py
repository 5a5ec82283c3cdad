"""Section 11: health, metrics, draining, configuration and exit statuses."""

import re
import signal
import subprocess

import pytest
from support.process import BATON, wait_for


def run(*arguments, seconds=30, **options):
    return subprocess.run([BATON, *arguments], capture_output=True, text=True, timeout=seconds, **options)


def test_health_and_readiness(gateway):
    assert gateway.get("/healthz").status == 200
    assert gateway.get("/readyz").status == 200


def test_metrics_are_prometheus_text(redis, gateway, session, attach):
    device = attach(gateway, session)
    device.until_at(redis.add(session, data="x"))
    answer = gateway.get("/metrics")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert names and all(name.startswith("baton_") for name in names), names
    for word in ("devices", "sessions", "entries", "resets", "redis", "window"):
        assert any(word in name for name in names), f"no metric about {word}: {sorted(names)}"
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rpartition(" ")[2]) is not None


def test_metrics_count_devices_and_sessions(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-count")
    devices = [attach(gateway, session).until_live() for _ in range(3)] + [attach(gateway, session + "-2").until_live()]
    assert gateway.metric("baton_devices") == 4
    assert gateway.metric("baton_sessions") == 2
    for device in devices:
        device.cut()
    wait_for(lambda: gateway.metric("baton_devices") == 0, 20, "no device")


def test_sigterm_drains(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-drain", "--drain-delay", "2s", "--drain-time", "1s")
    devices = [attach(gateway, session).until_live() for _ in range(5)]
    gateway.terminate()
    wait_for(lambda: gateway.get("/readyz").status == 503, 10, "not ready")
    assert gateway.get("/healthz").status == 200
    refused = gateway.upgrade(f"/v1/sessions/{session}")
    refused.problem(503)
    assert "retry-after" in refused.headers
    id = redis.add(session, data="still served")
    for device in devices:
        device.until_at(id)
    for device in devices:
        assert device.until_type("draining")["retryAfterMs"] >= 0
        assert device.until_closed() == 1001
        device.judge(redis.stream(session))
    assert gateway.process.wait(30) == 0


def test_a_drained_devices_offset_is_good_elsewhere(redis, new_gateway, gateway, session, attach):
    leaving = new_gateway(redis.url, "gw-leave", "--drain-delay", "0s", "--drain-time", "1s")
    device = attach([leaving, gateway], session, follow=True).until_live()
    ids = redis.add_tokens(session, [f"w{n} " for n in range(100)], "r")
    device.until_at(ids[-1])
    leaving.terminate()
    ids = redis.add_tokens(session, [f"w{n} " for n in range(100, 200)], "r", 101)
    device.until(lambda device: device.attaches > 1 and device.view.live, 30, "on the other node")
    device.until_at(ids[-1])
    device.judge(redis.stream(session))
    assert device.resets == []
    assert leaving.process.wait(30) == 0


def test_a_second_sigterm_exits_at_once(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-two", "--drain-delay", "60s", "--drain-time", "60s")
    attach(gateway, session).until_live()
    gateway.terminate()
    wait_for(lambda: gateway.get("/readyz").status == 503, 10, "draining")
    gateway.terminate()
    assert gateway.process.wait(10) is not None


def test_without_a_device_draining_ends_after_the_delay(redis, new_gateway):
    gateway = new_gateway(redis.url, "gw-empty", "--drain-delay", "0s", "--drain-time", "60s")
    gateway.terminate()
    assert gateway.process.wait(20) == 0


def test_a_gateway_without_a_key_listens_on_loopback_only(redis):
    refused = run("serve", "--listen", "0.0.0.0:0", "--redis", redis.url)
    assert refused.returncode == 78, refused.stderr
    assert "--insecure-no-auth" in refused.stderr


def test_insecure_no_auth_lifts_the_loopback_rule(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-open", "--insecure-no-auth", listen="0.0.0.0:0")
    attach(gateway, session).until_live()


def test_what_gives_up_safety_is_warned_of_and_measured(redis, new_gateway, gateway, secret):
    options = re.findall(r"--(insecure-[\w-]+)", run("serve", "--help").stdout)
    assert options
    for option in options:
        open_ = new_gateway(redis.url, f"gw-{option}", f"--{option}")
        warned = [line for line in open_.process.logged().splitlines() if " warning " in line and f"--{option}" in line]
        assert len(warned) == 1 and open_.metric("baton_insecure", option=option) == 1
        assert gateway.metric("baton_insecure", option=option) == 0 and f"--{option}" not in gateway.process.logged()
    closed = new_gateway(redis.url, "gw-closed", "--insecure-no-auth", "--auth-secret-file", secret)
    assert closed.metric("baton_insecure", option="insecure-no-auth") == 0 and "--insecure-no-auth" not in closed.process.logged()


@pytest.mark.parametrize("arguments", [
    ["serve", "--no-such-option"], ["no-such-command"], ["attach"], ["publish"],
])  # fmt: skip
def test_wrong_usage_exits_with_64(arguments):
    told = run(*arguments)
    assert told.returncode == 64 and told.stderr


@pytest.mark.parametrize("option, value", [
    ("--listen", "nowhere"), ("--redis", "http://x"), ("--wakeup", "never"), ("--max-entry-bytes", "many"), ("--drain-time", "soon"),
    ("--allowed-origins", "not an origin"),
])  # fmt: skip
def test_wrong_configuration_is_said_and_exits(option, value):
    told = run("serve", "--listen", "127.0.0.1:0", option, value)
    assert told.returncode in (64, 78), told.stderr
    assert option.strip("-") in told.stderr


def test_a_port_that_is_taken_is_said(redis, gateway):
    told = run("serve", "--listen", gateway.address, "--redis", redis.url)
    assert told.returncode in (69, 78) and str(gateway.port) in told.stderr


def check(redis, user=None, **options):
    url = redis.url if user is None else redis.url.replace("://", f"://{user}:secret@")
    return run("serve", "--check", "--redis", url, **options)


def test_check_finds_nothing_missing_and_leaves_nothing(new_redis):
    redis = new_redis("redis-check")
    told = check(redis)
    assert told.returncode == 0 and told.stderr == "" and redis.url in told.stdout, told
    assert redis.client.dbsize() == 0


def test_check_names_each_command_key_and_channel(new_redis):
    redis = new_redis("redis-check")
    redis.client.execute_command("ACL", "SETUSER", "all", "on", ">secret", "~baton:{*", "resetchannels", "&__redis__:invalidate", "+@all")
    assert check(redis, "all").returncode == 0
    redis.client.execute_command(
        "ACL", "SETUSER", "some", "on", ">secret", "~baton:{*}", "resetchannels", "+@all", "-hexists", "-evalsha", "-client")
    told = check(redis, "some")
    assert told.returncode == 78 and told.stdout == ""
    for missing in ("HEXISTS", "EVALSHA", "CLIENT ID", "CLIENT TRACKING", "SUBSCRIBE __redis__:invalidate",
                    "XADD baton:{}:inbox", "HSET baton:{}:producers", "HSET baton:{}:keys"):  # fmt: skip
        assert missing in told.stderr, (missing, told.stderr)
    assert "XADD baton:{}:" in told.stderr and "XREAD" not in told.stderr and "secret" not in told.stderr
    # Who polls needs no notices.
    polling = run("serve", "--check", "--wakeup", "poll", "--redis", redis.url.replace("://", "://some:secret@")).stderr
    assert "HEXISTS" in polling and "SUBSCRIBE" not in polling and "TRACKING" not in polling
    assert redis.client.dbsize() == 0


def test_check_tells_what_must_be_mended_from_what_passes(new_redis):
    redis = new_redis("redis-check")
    wrong = run("serve", "--check", "--redis", redis.url.replace("://", "://nobody:secret@"))
    assert wrong.returncode == 78 and "WRONGPASS" in wrong.stderr and "secret" not in wrong.stderr
    redis.client.config_set("min-replicas-to-write", 1)
    refused = check(redis)
    assert refused.returncode == 69 and "NOREPLICAS" in refused.stderr and "XADD" in refused.stderr
    redis.kill()
    gone = check(redis)
    assert gone.returncode == 69 and "refused" in gone.stderr


@pytest.mark.parametrize("command", [[], ["serve"], ["publish"], ["attach"]])
def test_help_tells_the_options(command):
    told = run(*command, "--help")
    assert told.returncode == 0
    if command == ["serve"]:
        for option in ("--listen", "--redis", "--node", "--key-prefix", "--wakeup", "--max-entry-bytes", "--drain-delay",
                       "--drain-time", "--log-format", "--allowed-origins", "--public-url", "--insecure-no-auth"):  # fmt: skip
            assert option in told.stdout, option


def test_print_config_shows_what_counts(tmp_path):
    environment = {"BATON_KEY_PREFIX": "env:", "BATON_NODE": "from-env", "PATH": "/usr/bin"}
    told = run("serve", "--print-config", "--node", "from-flag", env=environment)
    assert told.returncode == 0, told.stderr
    text = told.stdout + told.stderr
    assert "env:" in text and "from-flag" in text and "from-env" not in text


def test_environment_variables_are_options(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-env", env={"BATON_KEY_PREFIX": "env:"})
    id = redis.client.xadd(f"env:{{{session}}}", {"data": "x"}).decode()
    attach(gateway, session).until_at(id)


def test_json_logs_are_json(redis, shared, started, session):
    import json
    import socket

    from support.process import Process, free_port

    port = free_port()
    process = Process(shared, f"json-{session}", [BATON, "serve", "--listen", f"127.0.0.1:{port}", "--redis", redis.url, "--log-format", "json"])
    try:
        wait_for(lambda: f"listening on http://127.0.0.1:{port}" in process.logged().replace("\\/", "/"), 20, "the line")
        for line in process.logged().splitlines():
            json.loads(line)
        socket.create_connection(("127.0.0.1", port)).close()
    finally:
        process.kill()


def test_logs_name_sessions_but_never_text(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-log")
    secret = "an-answer-nobody-may-read"
    device = attach(gateway, session, token="secret-token-in-query")
    device.until_at(redis.add(session, data=secret))
    redis.client.delete(f"baton:{{{session}}}")
    device.until_type("reset", seconds=40)
    gateway.request("POST", f"/v1/sessions/{session}", "{\"data\":\"%s\",\"x\":" % secret, {"Content-Type": "application/json"})
    logged = gateway.process.logged()
    assert secret not in logged and "secret-token-in-query" not in logged


def test_sigint_ends_it_too(redis, new_gateway):
    gateway = new_gateway(redis.url, "gw-int", "--drain-delay", "0s", "--drain-time", "0s")
    gateway.process.signal(signal.SIGINT)
    assert gateway.process.wait(20) is not None
