"""What a gateway is to the machine that runs it: signals, systemd, unix sockets, versions, variables, exit statuses."""

import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import threading

import pytest
from support.process import BATON, REPOSITORY, Process, free_port, wait_for
from support.producer import Model
from support.servers import Gateway
from support.tokens import bearer, token


def run(*arguments, seconds=60, **options):
    return subprocess.run([BATON, *map(str, arguments)], capture_output=True, text=True, timeout=seconds, **options)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_means_nothing_is_said_and_ignored(redis, new_gateway, session, attach, number):
    gateway = new_gateway(redis.url, "gw-signal")
    device = attach(gateway, session).until_live()
    for count in (1, 2):
        gateway.process.signal(number)
        wait_for(lambda: gateway.process.logged().count("ignored a signal") == count, 10, "it says so")
    device.until_at(redis.add(session, data="still here"))


def test_sigquit_drains(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-quit", "--drain-delay", "0s", "--drain-time", "1s")
    device = attach(gateway, session).until_live()
    gateway.process.signal(signal.SIGQUIT)
    assert device.until_closed() == 1001
    assert gateway.process.wait(30) == 0


def test_a_fault_ends_the_process_at_once(redis, new_gateway):
    gateway = new_gateway(redis.url, "gw-fault")
    gateway.process.signal(signal.SIGILL)
    # The runtime's backtrace takes seconds, in which every device hangs.
    assert gateway.process.wait(2) == -signal.SIGILL


SECRETS = {name: f"hidden-{name}-{'x' * 40}" for name in ("redis", "model", "query", "webhook", "token-key", "metrics", "cookie")}


@pytest.mark.parametrize("ends", [signal.SIGILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_secrets_are_nowhere(new_redis, session, tmp_path, started, ends):
    """Neither in what every user of the machine sees, nor in what is logged, also where all goes wrong."""
    redis = new_redis("redis-hidden")
    redis.client.config_set("requirepass", SECRETS["redis"])
    files = {}
    for name, text in SECRETS.items():
        files[name] = tmp_path / name
        files[name].write_text("whsec_" + base64.b64encode(text.encode()).decode() if name == "webhook" else text)
    environment = {
        "BATON_REDIS": redis.url.replace("://", f"://:{SECRETS['redis']}@"), "BATON_OPENAI": f"http://ann:{SECRETS['model']}@127.0.0.1:9/v1?key={SECRETS['query']}",
        "OPENAI_API_KEY": SECRETS["model"], "BATON_WEBHOOK": f"http://127.0.0.1:9/hooks?key={SECRETS['query']}",
        "BATON_AI_SDK": f"http://ann:{SECRETS['model']}@127.0.0.1:9/chat?key={SECRETS['query']}", "BATON_RELAY": f"/agent=http://127.0.0.1:9/agent?key={SECRETS['query']}",
    }  # fmt: skip
    options = ["--webhook-secret-file", files["webhook"], "--auth-secret-file", files["token-key"], "--metrics-secret-file", files["metrics"]]

    def leaks(*texts):
        words = [*SECRETS.values(), base64.b64encode(SECRETS["webhook"].encode()).decode()]
        return [name for name in words for text in texts if name in text]

    printed = subprocess.run([BATON, "serve", "--print-config", *options], capture_output=True, text=True, timeout=30, env={**os.environ, **environment})
    assert printed.returncode == 0 and not leaks(printed.stdout, printed.stderr)
    gateway = Gateway(tmp_path, environment["BATON_REDIS"], "gw-hidden", *options, "--log-level", "trace", "--drain-delay", "0s", env=environment, ready=False)
    started.append(gateway)
    warned = [line for line in gateway.process.logged().splitlines() if " warning --redis " in line]
    assert len(warned) == 1 and "BATON_REDIS" in warned[0]
    quiet = Process(tmp_path, "gw-quiet", [BATON, "serve", "--listen", "127.0.0.1:0", *options], environment)
    started.append(quiet)
    wait_for(lambda: "listening on" in quiet.logged(), 20, "it listens")
    assert "holds credentials" not in quiet.logged()
    assert not leaks((pathlib.Path("/proc") / str(quiet.pid) / "cmdline").read_text(), quiet.logged())
    wait_for(lambda: gateway.get("/readyz").status == 200, 20, "it is ready")
    mine = {**bearer(token(SECRETS["token-key"].encode())), "Content-Type": "application/json", "Cookie": f"login={SECRETS['cookie']}"}
    for path, body in (("/v1/responses", '{"model":"m","input":"x"}'), ("/v1/models", None), ("/agent", "{}"),
                       ("/v1/ai-sdk", json.dumps({"id": session, "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "x"}]}]}))):  # fmt: skip
        told = gateway.request("POST" if body else "GET", path, body, mine)
        assert told.status >= 400 and not leaks(told.body.decode())
    lines = '{"response":"r","n":1,"data":"x"}\n{"response":"r","event":"end"}\n'
    assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1", lines, {**mine, "Content-Type": "application/x-ndjson"}).status == 201
    wait_for(lambda: "webhook" in gateway.process.logged(), 20, "a failure")
    redis.client.config_set("requirepass", "another")
    redis.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_for(lambda: "WRONGPASS" in gateway.process.logged() or "NOAUTH" in gateway.process.logged(), 20, "Redis lets it in no more")
    gateway.process.signal(ends)
    gateway.process.wait(60)
    assert not leaks(gateway.process.logged())


class Manager:
    """systemd's side of sd_notify(3)."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.settimeout(20)

    def until(self, what):
        while True:
            told = self.socket.recv(4096).decode().splitlines()
            if what in told:
                return told


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(redis, new_gateway, tmp_path, kind):
    address = f"{tmp_path}/notify" if kind == "path" else f"@baton-test-{os.getpid()}"
    manager = Manager(address)
    gateway = new_gateway(redis.url, "gw-systemd", "--drain-delay", "0s", "--drain-time", "0s",
                          env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"})  # fmt: skip
    manager.until("READY=1")
    for _ in range(3):
        manager.until("WATCHDOG=1")
    gateway.terminate()
    manager.until("STOPPING=1")
    assert gateway.process.wait(20) == 0


def test_the_watchdogs_sign_is_for_the_process_that_it_names(redis, new_gateway, tmp_path):
    manager = Manager(f"{tmp_path}/notify")
    gateway = new_gateway(redis.url, "gw-systemd", "--drain-delay", "0s", "--drain-time", "0s", env={
        "NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})  # fmt: skip
    manager.until("READY=1")
    gateway.terminate()
    told = []
    while "STOPPING=1" not in told:
        told += manager.socket.recv(4096).decode().splitlines()
    assert "WATCHDOG=1" not in told


def test_the_systemd_units_options_exist():
    unit = (REPOSITORY / "Deploy/systemd/baton.service").read_text()
    start = re.search(r"^ExecStart=\S+ serve (.*(?:\\\n.*)*)", unit, re.M)[1]
    help_ = run("serve", "--help").stdout
    options = re.findall(r"--[\w-]+", start)
    assert options
    for option in options:
        assert option in help_, option
    for name in re.findall(r"^#?\s*(BATON_\w+)=", (REPOSITORY / "Deploy/systemd/baton.env").read_text(), re.M):
        assert name in help_, name
    assert "Type=notify" in unit and "WatchdogSec=" in unit
    stop = int(re.search(r"^TimeoutStopSec=(\d+)", unit, re.M)[1])
    assert stop >= 5 + 30 + 6, "longer than the default drain"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def ask(path, resource):
    connection = UnixConnection(path)
    try:
        connection.request("GET", resource)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_listens_on_a_unix_socket(redis, started, tmp_path, session):
    path = f"{tmp_path}/baton.sock"
    command = [BATON, "serve", "--listen", f"unix:{path}", "--redis", redis.url, "--node", "n", "--drain-delay", "0s", "--drain-time", "1s"]
    process = Process(tmp_path, "unix", command)
    started.append(process)
    wait_for(lambda: f"listening on unix:{path}" in process.logged(), 20, "listening")
    wait_for(lambda: b"ready" in ask(path, "/readyz"), 20, "ready")
    redis.add(session, data="over a socket")
    assert b"over a socket" in ask(path, f"/v1/sessions/{session}")

    from websockets.sync.client import unix_connect

    with unix_connect(path, f"ws://localhost/v1/sessions/{session}", subprotocols=["baton.v1"]) as device:
        assert "attached" in device.recv(20) and "over a socket" in device.recv(20)

        second = run(*command[1:])
        assert second.returncode == 78 and "in use" in second.stderr

        process.signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not os.path.exists(path)


def test_a_socket_that_a_dead_gateway_left_is_taken_over(redis, started, tmp_path):
    path = f"{tmp_path}/baton.sock"
    for turn in range(2):
        process = Process(tmp_path, f"turn-{turn}", [BATON, "serve", "--listen", f"unix:{path}", "--redis", redis.url])
        started.append(process)
        wait_for(lambda: "listening" in process.logged(), 20, "listening")
        process.kill()
        assert os.path.exists(path)


def test_a_file_is_not_taken_for_a_socket(redis, tmp_path):
    (tmp_path / "file").write_text("precious")
    told = run("serve", "--listen", f"unix:{tmp_path}/file", "--redis", redis.url)
    assert told.returncode == 78 and (tmp_path / "file").read_text() == "precious"


def test_every_place_says_the_same_version(gateway):
    version = run("--version").stdout.strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version)
    assert version in gateway.get("/healthz").body.decode()
    first = gateway.process.logged().splitlines()[0]
    assert f"version={version}" in first


def test_the_first_line_hides_the_password(redis, new_gateway):
    gateway = new_gateway(redis.url.replace("redis://", "redis://default:geheim@"), "gw-secret", ready=False)
    wait_for(lambda: "starting" in gateway.process.logged(), 10, "the first line")
    assert "geheim" not in gateway.process.logged()


# MARK: variables


def test_every_option_of_every_command_is_a_variable(redis, gateway, session):
    redis.add_tokens(session, ["a", "b"], "r")
    redis.add(session, event="end", response="r")
    environment = {**os.environ, "BATON_URL": gateway.url, "BATON_UNTIL": "end", "BATON_LAST": "2", "BATON_JSON": "true"}
    told = run("attach", session, env=environment)
    assert told.returncode == 0 and '"attached"' in told.stdout and '"n":1' not in told.stdout and '"n":2' in told.stdout
    # Flags win, also over the variables of what they rule out.
    told = run("attach", session, "--offset", "0", env=environment)
    assert '"data":"ab"' in told.stdout
    told = run("attach", session, "--url", f"http://127.0.0.1:{free_port()}", "--connect-timeout", "300ms", env=environment)
    assert told.returncode == 69
    told = run("attach", session, env={**environment, "BATON_LAST": "many"})
    assert told.returncode == 64 and "BATON_LAST" in told.stderr


def test_publish_and_token_obey_variables(redis, gateway, session, tmp_path):
    told = run("publish", session, input="x\n", env={**os.environ, "BATON_URL": gateway.url, "BATON_RESPONSE": "r-env"})
    assert told.returncode == 0, told.stderr
    assert any((b"response", b"r-env") in fields for _, fields in redis.stream(session))
    told = run("publish", session, "--redis", redis.url, input="x\n",
               env={**os.environ, "BATON_URL": "http://127.0.0.1:1", "BATON_RESPONSE": "r-env-2"})  # fmt: skip
    assert told.returncode == 0, told.stderr
    (tmp_path / "secret").write_text("x" * 40)
    told = run("token", env={**os.environ, "BATON_SECRET_FILE": str(tmp_path / "secret"), "BATON_SUBJECT": "me", "BATON_SESSIONS": "*"})
    assert told.returncode == 0 and told.stdout.count(".") == 2
    told = run("dev", env={**os.environ, "BATON_GATEWAYS": "99"})
    assert told.returncode == 64 and "BATON_GATEWAYS" in told.stderr


def test_publish_sends_the_token_of_the_environment(session):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["authorization"])
            self.send_response(401)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        told = run("publish", session, input="x\n", env={**os.environ, "BATON_URL": url, "BATON_TOKEN": "abc"})
        server.shutdown()
    assert asked == ["Bearer abc"]
    assert told.returncode == 78


# MARK: exit statuses


@pytest.fixture
def locked(redis, new_gateway, tmp_path):
    (tmp_path / "secret").write_text("x" * 40)
    return new_gateway(redis.url, "gw-locked", "--auth-secret-file", tmp_path / "secret")


def test_one_refusal_has_one_status(locked, session):
    for arguments in (["attach", session], ["publish", session], ["attach", session, "--token", "x"], ["publish", session, "--token", "x"]):
        told = run(*arguments, "--url", locked.url, input="x\n")
        assert told.returncode == 78, (arguments, told.stderr)


def test_what_is_out_of_reach_has_one_status(session):
    away = f"127.0.0.1:{free_port()}"
    assert run("attach", session, "--url", f"http://{away}", "--connect-timeout", "300ms").returncode == 69
    assert run("publish", session, "--redis", "redis://127.0.0.1:1/0", "--openai", f"http://{away}", "--prompt", "x", seconds=90).returncode == 69


# MARK: terminals


def on_a_terminal(*arguments, data=None):
    """The bytes that a terminal would be sent."""
    terminal, other = pty.openpty()
    process = subprocess.Popen([BATON, *arguments], stdin=subprocess.DEVNULL, stdout=other, stderr=other)
    os.close(other)
    shown = b""
    with contextlib.suppress(OSError):
        while more := os.read(terminal, 65536):
            shown += more
    os.close(terminal)
    process.wait(30)
    return shown


EVIL = "a\x1b]0;owned\x07b\x1b[2Jc\rd\x9b31me\x7ff\u202eg"


def test_a_terminal_is_shown_and_not_obeyed(redis, gateway, session):
    whole = EVIL.encode() + "🙂é".encode()
    for n, byte in enumerate(whole, 1):
        redis.add(session, data=bytes([byte]), response="r", n=n)
    redis.add(session, event="error", response="r", data="\x1b[31mred")
    shown = on_a_terminal("attach", session, "--url", gateway.url, "--until", "end").decode()
    bare = shown.replace("\r\n", "\n")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", bare), ascii(bare)
    assert bare.startswith("a␛]0;owned␇b␛[2Jc␍d<9B>31me␡f<202E>g🙂é"), ascii(bare)
    piped = subprocess.run([BATON, "attach", session, "--url", gateway.url, "--until", "end"], capture_output=True, timeout=60)
    assert piped.stdout == whole


def test_what_a_server_says_does_not_reach_the_terminal_as_it_is():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"no \x1b[31mmodel\x1b]0;x\x07")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        redis = f"redis://127.0.0.1:{free_port()}/0"
        shown = on_a_terminal("publish", "s", "--redis", redis, "--openai", f"http://127.0.0.1:{server.server_port}", "--prompt", "x")
        server.shutdown()
    assert b"\x1b]" not in shown and b"\x1b[31m" not in shown


def test_publish_ends_its_answer_at_a_hangup(redis, session, tmp_path):
    model = Model(["w "] * 1000, pause=0.05)
    try:
        process = Process(tmp_path, "publish", [BATON, "publish", session, "--redis", redis.url, "--openai", model.url, "--prompt", "x"])
        wait_for(lambda: len(redis.stream(session)) > 3, 30, "it writes")
        process.signal(signal.SIGHUP)
        process.wait(20)
    finally:
        model.kill()
    last = dict(redis.stream(session)[-1][1])
    assert last[b"event"] == b"cancelled" and b"interrupted" in last[b"data"]
