"""`baton attach` against gateways that these tests play: what a healthy gateway never does."""

import asyncio
import json
import signal
import ssl
import subprocess
import threading

import pytest
from support.process import BATON, Process, free_port, wait_for
from websockets.asyncio.server import serve


class Fake:
    """A WebSocket server; `play(connection, n)` is the n-th connection's other end, from 0."""

    def __init__(self, play, refuse=None, tls=None):
        self.requests = []
        self._play, self._refuse, self._tls = play, refuse, tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"

    async def _main(self):
        self._stopped = asyncio.Event()

        async def handler(connection):
            n = len(self.requests)
            self.requests.append(connection.request)
            await self._play(connection, n)

        def refused(connection, request):
            return self._refuse(connection) if self._refuse else None

        listen = serve(
            handler, "127.0.0.1", 0, subprotocols=["baton.v1"], ssl=self._tls, process_request=refused, ping_interval=None
        )
        async with listen as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stopped.wait()

    def stop(self):
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(20)


@pytest.fixture
def fake():
    fakes = []

    def new(*arguments, **named):
        fakes.append(Fake(*arguments, **named))
        return fakes[-1]

    yield new
    for one in fakes:
        one.stop()


def attached(offset="0", **more):
    return json.dumps({"type": "attached", "session": "s", "node": "fake", "offset": offset, **more})


def token(n, **data):
    return json.dumps({"id": f"{n}-0.0000000{n % 10}", "event": "token", "response": "r", "n": n, **data})


def run(*arguments, seconds=60):
    return subprocess.run([BATON, "attach", "s", *arguments], capture_output=True, timeout=seconds)


def test_goes_on_over_losses_and_obeys_reset(fake):
    async def play(connection, n):
        offset = connection.request.path.split("offset=")[1].split("&")[0]
        await connection.send(attached(offset))
        if n == 0:
            await connection.send(token(1, data="one "))
            await connection.send('{"type":"draining","retryAfterMs":1}')
            await connection.close(1012)
        elif n == 1:
            assert offset == "1-0.00000001"
            await connection.send(token(2, data="two "))
            connection.transport.abort()
        else:
            await connection.send('{"type":"reset","reason":"trimmed","from":"0","offset":"0"}')
            await connection.send(token(7, data64="8J8="))
            await connection.send(token(8, data64="mYI="))
            await connection.close(1000)

    server = fake(play)
    done = run("--url", server.url, "--until", "end", "--token", "secret")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() in ("one two 🙂", "one 🙂")
    assert b"--- reset (trimmed): all that was printed" in done.stderr
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer secret"}
    assert b"secret" not in done.stderr


@pytest.mark.parametrize("times", range(5))
def test_everything_in_one_segment_with_the_upgrade(fake, times):
    """The 101, the frames and the close arrive together: nothing of it is lost, and the close is answered."""

    async def play(connection, n):
        connection.transport.pause_reading()
        await connection.send(attached())
        for n in range(1, 50):
            await connection.send(token(n, data=f"{n} "))
        connection.transport.resume_reading()
        await connection.close(1000)

    done = run("--url", fake(play).url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "".join(f"{n} " for n in range(1, 50))


def test_json_prints_frames_as_they_were_received(fake):
    frames = [attached(later={"x": 1.50}), '{ "id":"1-0.00000001",  "data":"\\u00fc", "n" : 1}', '{"type":"live","offset":"1-0.00000001"}']

    async def play(connection, n):
        for frame in frames:
            await connection.send(frame)
        await connection.close(1000)

    done = run("--url", fake(play).url, "--json")
    assert done.returncode == 0 and done.stdout.decode().splitlines() == frames


@pytest.mark.parametrize("status, exit", [(400, 64), (401, 78), (403, 78), (404, 64), (409, 69), (410, 69)])
def test_a_refusal_for_good_is_said(fake, status, exit):
    def refuse(connection):
        response = connection.respond(status, json.dumps({"type": "urn:baton:problem:no", "title": "No", "detail": "Mend this."}))
        return response

    done = run("--url", fake(None, refuse).url)
    assert done.returncode == exit
    assert str(status).encode() in done.stderr and b"Mend this." in done.stderr


def test_a_refusal_that_passes_is_waited_for(fake):
    refusals = [503, 429]

    def refuse(connection):
        if refusals:
            response = connection.respond(refusals.pop(0), "later")
            response.headers["Retry-After"] = "0"
            return response

    async def play(connection, n):
        await connection.send(attached())
        await connection.close(1000)

    assert run("--url", fake(play, refuse).url).returncode == 0
    assert not refusals


@pytest.mark.parametrize("code, exit", [(1008, 69), (1003, 70), (4401, 78), (4403, 78)])
def test_a_close_for_good_is_said(fake, code, exit):
    async def play(connection, n):
        await connection.send(attached())
        await connection.close(code, "because")

    done = run("--url", fake(play).url)
    assert done.returncode == exit and str(code).encode() in done.stderr and b"because" in done.stderr


def test_nobody_there_exits_with_69():
    done = run("--url", f"http://127.0.0.1:{free_port()}", "--connect-timeout", "300ms")
    assert done.returncode == 69 and b"refused" in done.stderr


def test_a_half_open_connection_is_left(fake):
    async def play(connection, n):
        await connection.send(attached(pingMs=1000))
        if n == 0:
            connection.transport.pause_reading()
            await asyncio.sleep(60)
        await connection.close(1000)

    server = fake(play)
    assert run("--url", server.url).returncode == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_a_proper_close(fake, tmp_path, number):
    closed = []

    async def play(connection, n):
        await connection.send(attached())
        await connection.wait_closed()
        closed.append(connection.close_code)

    process = Process(tmp_path, "attach", [BATON, "attach", "s", "--url", fake(play).url, "--json"])
    wait_for(lambda: "attached" in process.logged(), 20, "attached")
    process.signal(number)
    assert process.wait(20) == 0, process.logged()
    wait_for(lambda: closed, 20, "the close")
    assert closed == [1000]


def test_it_ends_when_nobody_reads(fake):
    async def play(connection, n):
        await connection.send(attached())
        for n in range(1, 100_000):
            await connection.send(token(n, data="x" * 1000))

    command = [BATON, "attach", "s", "--url", fake(play).url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(30) == 0, process.stderr.read()
    process.stderr.close()


@pytest.fixture
def certificate(tmp_path):
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = "subjectAltName=DNS:localhost"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context, pem


def test_tls_is_checked(fake, certificate):
    context, pem = certificate

    async def play(connection, n):
        await connection.send(attached())
        await connection.send(token(1, data="hi"))
        await connection.close(1000)

    server = fake(play, tls=context)
    good = run("--url", server.url, "--ca-file", pem)
    assert good.returncode == 0 and good.stdout == b"hi", good.stderr
    unknown = run("--url", server.url, "--connect-timeout", "500ms")
    assert unknown.returncode == 69 and b"CERTIFICATE_VERIFY_FAILED" in unknown.stderr
    other = run("--url", server.url.replace("localhost", "127.0.0.1"), "--ca-file", pem, "--connect-timeout", "500ms")
    assert other.returncode == 69 and other.stdout == b""
