"""The article "Add it to your app": its blocks, put together as it says, in Chromium."""

import http.server
import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import redis
from support.browser import Browser
from support.process import BATON, REPOSITORY, Process, free_port, wait_for
from support.servers import request

ARTICLE = (REPOSITORY / "Sources/BatonGateway/BatonGateway.docc/AddItToYourApp.md").read_text()
HEAD = re.compile(r"(?:#|//|<!--) ([\w./]+)(?:: (.*?))?(?: -->)?\n")


def blocks():
    """(step, file, name, text) of each block of code."""
    found = []
    for number, section in re.findall(r"^## (\d+)\. .*?\n(.*?)(?=^## |\Z)", ARTICLE, re.S | re.M):
        for text in re.findall(r"^```\w+\n(.*?)^```$", section, re.S | re.M):
            head = HEAD.match(text)
            assert head, f"a block of step {number} does not say where it belongs: {text[:80]}"
            found.append((int(number), head[1], head[2], text))
    return found


def files(step):
    """The app as it is after `step`: a block stands in the place of the one whose name it has."""
    parts = {}
    for number, file, name, text in blocks():
        if number <= step:
            parts.setdefault(file, {})[name] = text
    return {file: "\n".join(named.values()) for file, named in parts.items()}


class Model:
    """Answers a request with `words`, one in `pace` seconds, of which it holds back those behind `held` until `released`. `requests` are the
    prompts, `left` the numbers of those whose asker went away."""

    def __init__(self):
        self.words, self.held, self.pace, self.requests, self.left = 8, None, 0, [], []
        self.released = threading.Event()
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                model.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"])
                number, held = len(model.requests), model.held
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for n, word in enumerate(model.text(number).split(" ")):
                        while n == held and not model.released.wait(0.01):
                            self.say(": waits")
                        time.sleep(model.pace)
                        self.say("data: " + json.dumps({"choices": [{"delta": {"content": f" {word}" if n else word}}]}))
                    self.say("data: [DONE]")
                except (BrokenPipeError, ConnectionResetError):
                    model.left.append(number)

            def say(self, line):
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/chat/completions"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def text(self, number):
        return " ".join([f"answer-{number}", *(f"word-{n}" for n in range(2, self.words + 1))])

    def part(self, number):
        return " ".join(self.text(number).split(" ")[: self.held])

    def kill(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class Stack:
    """The app after `step`, its model, and from step 2 on Redis and a gateway, as the article starts them."""

    def __init__(self, folder, step, started):
        self.folder, self.step, self.started = folder, step, started
        self.port, self.gateway_port, self.redis_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.servers, self.processes = {}, {}
        self.model = Model()
        started.append(self.model)
        (folder / "static").mkdir()
        self.write(step)
        if step > 1:
            [script] = [text for _, file, _, text in blocks() if file == "shell"]
            self.run(script)
            self.redis = redis.Redis(port=self.redis_port, protocol=2)
        self.start()

    def write(self, step):
        for file, text in files(step).items():
            if file != "shell":
                (self.folder / file).write_text(text)

    def run(self, script):
        env = {"BATON_LISTEN": f"127.0.0.1:{self.gateway_port}"}
        for old, new in [("6379", self.redis_port), ("8080", self.gateway_port), ("8000", self.port)]:
            script = script.replace(old, str(new))
        for line in script.splitlines():
            if line.endswith(" &"):
                words = shlex.split(line.removesuffix(" &"))
                name, words[0] = words[0], BATON if words[0] == "baton" else words[0]
                self.servers[name] = lambda name=name, words=words: Process(self.folder, name, ["env", "-C", self.folder, *words], env)
                self.start_server(name)
            else:
                subprocess.run(["bash", "-euc", line], cwd=self.folder, check=True, timeout=60)

    def start_server(self, name):
        self.processes[name] = self.servers[name]()
        self.started.append(self.processes[name])

    def start(self):
        env = {
            "MODEL": self.model.url, "PASSWORD": "open sesame", "GATEWAYS": f"http://127.0.0.1:{self.gateway_port}",
            "REDIS": f"redis://127.0.0.1:{self.redis_port}/0", "PYTHONPATH": REPOSITORY / "Sources/BatonPython"}  # fmt: skip
        self.backend = Process(
            self.folder, "backend",
            ["env", "-C", self.folder, sys.executable, "-m", "uvicorn", "--port", self.port, "--log-level", "warning", "app:app"], env)
        self.started.append(self.backend)
        wait_for(self._answers, 30, "the app answers")

    def _answers(self):
        assert self.backend.alive, self.backend.logged()[-3000:]
        try:
            return request(self.port, "GET", "/").status == 200
        except OSError:
            return False

    def is_closed(self):
        try:
            return request(self.port, "GET", "/").status != 200
        except OSError:
            return True

    def rows(self, query="SELECT role, text, state FROM messages ORDER BY id"):
        with sqlite3.connect(self.folder / "chat.db") as database:
            return database.execute(query).fetchall()

    @property
    def answers(self):
        return self.rows("SELECT text, state FROM messages WHERE role = 'assistant' ORDER BY id")


class Window:
    """A tab of the browser."""

    def __init__(self, browser):
        self.browser, self.driver = browser, browser.driver
        self.driver.switch_to.new_window("tab")
        self.handle = self.driver.current_window_handle

    def run(self, script, *arguments):
        self.driver.switch_to.window(self.handle)
        return self.driver.execute_script(script, *arguments)

    def open(self, url):
        self.driver.switch_to.window(self.handle)
        self.driver.get(url)
        return self

    def reload(self):
        self.driver.switch_to.window(self.handle)
        self.driver.refresh()

    def sign_in(self, url, name="ann"):
        self.open(url)
        self.shows("#login")
        self.run("""
            document.getElementById('name').value = arguments[0];
            document.getElementById('password').value = 'open sesame';
            document.getElementById('login').requestSubmit();""", name)
        self.shows("#chat")
        return self

    def shows(self, selector, seconds=15):
        wait_for(lambda: self.run("return document.querySelector(arguments[0])?.checkVisibility()", selector), seconds, f"{selector} is shown")

    def ask(self, text, times=1):
        self.run("""
            document.getElementById('text').value = arguments[0];
            for (let n = 0; n < arguments[1]; n++) document.getElementById('ask').requestSubmit();""", text, times)

    def click(self, id):
        self.run("document.getElementById(arguments[0]).click()", id)

    @property
    def messages(self):
        return self.run("return [...document.querySelectorAll('#messages li')].map((item) => item.textContent)")

    @property
    def states(self):
        return self.run("return [...document.querySelectorAll('#messages li.assistant')].map((item) => item.dataset.state)")

    @property
    def path(self):
        return self.run("return location.pathname")

    def wait(self, *messages, states=None, seconds=20):
        def right():
            return self.messages == list(messages) and (states is None or self.states == states)

        try:
            wait_for(right, seconds)
        except AssertionError:
            raise AssertionError(f"shown: {self.messages} {self.states}, expected {list(messages)} {states}") from None

    def call(self, method, path, body=None):
        """Status and JSON of the backend's answer, to this window's cookie."""
        self.driver.switch_to.window(self.handle)
        return self.driver.execute_async_script("""
            const [method, path, body, done] = arguments;
            fetch(path, { method, body: body && JSON.stringify(body), headers: { 'Content-Type': 'application/json' } })
              .then(async (answer) => done([answer.status, await answer.json().catch(() => null)]), (error) => done([0, `${error}`]));
            """, method, path, body)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    browser = Browser("chromium")
    yield browser
    browser.kill()


@pytest.fixture
def window(browser):
    """`window()` opens another one; all are closed, and signed out, after the test."""
    windows = []

    def new():
        windows.append(Window(browser))
        return windows[-1]

    first = browser.driver.window_handles[0]
    yield new
    for one in windows:
        browser.driver.switch_to.window(one.handle)
        browser.driver.delete_all_cookies()
        browser.driver.close()
    browser.driver.switch_to.window(first)


@pytest.fixture
def stack(tmp_path, started):
    return lambda step: Stack(tmp_path, step, started)


LAST = max(step for step, *_ in blocks()) - 1  # the last step is the other decision about two questions


@pytest.fixture
def app(stack):
    return stack(LAST)


def test_every_block_has_its_place():
    assert {file for _, file, _, _ in blocks()} == {"app.py", "page.html", "static/page.js", "shell", "token.mjs"}
    assert [step for step, file, _, _ in blocks() if file == "shell"] == [2]


def test_step_1_the_plain_chat(stack, window):
    app, page = stack(1), window()
    page.sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.text(1))
    page.reload()
    page.wait("One?", app.model.text(1))
    assert [message["content"] for message in app.model.requests[0]] == ["One?"]


def test_step_3_a_token_for_a_cookie(stack, window):
    app, page = stack(3), window()
    page.sign_in(app.url)
    wait_for(lambda: page.path == "/c/1", what="the first conversation")
    status, token = page.call("POST", "/conversations/1/token")
    [(session,)] = app.rows("SELECT session FROM conversations")
    assert status == 200

    def attached(session, token):
        page.driver.switch_to.window(page.handle)
        return page.driver.execute_async_script("""
            const [url, session, token, done] = arguments;
            import('/static/baton.bundle.js').then(({ attach }) => {
              const chat = attach(url, session, { token, onlive() { done('live'); chat.close(); }, onend: ({ code }) => done(code) });
            });""", f"http://127.0.0.1:{app.gateway_port}", session, token)  # fmt: skip

    assert (app.folder / "secret").read_bytes().endswith(b"\n")
    assert attached(session, token) == "live"
    assert attached("another", token) == 4403
    assert attached(session, by_node(app.folder, session)) == "live"

    page.call("POST", "/logout")
    assert page.call("POST", "/conversations/1/token")[0] == 401
    page.sign_in(app.url, "eve")
    assert page.call("POST", "/conversations/1/token")[0] == 404


def by_node(folder, session):
    """What token.mjs makes, over a stand-in for the package: its `sign`, as far as the block asks for it, written on Node's own parts."""
    package = folder / "node_modules/jsonwebtoken"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    (package / "index.js").write_text("""
        import { createHmac } from 'node:crypto';
        const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
        export default {
          sign(payload, secret, { algorithm, subject, expiresIn, ...others }) {
            if (algorithm !== 'HS256' || Object.keys(others).length) throw new Error('not known here');
            const iat = Math.floor(Date.now() / 1000);
            const signed = `${part({ alg: algorithm, typ: 'JWT' })}.${part({ ...payload, iat, exp: iat + expiresIn, sub: subject })}`;
            return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
          },
        };""")
    script = f"import('{folder}/token.mjs').then(({{ token }}) => console.log(token('ann', '{session}', 'read')))"
    return subprocess.run(["node", "-e", script], cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_step_3_row_ids_that_come_again_show_nothing_old(app, window):
    page = window().sign_in(app.url)
    page.ask("Old?")
    page.wait("Old?", app.model.text(1), states=["end"])
    app.backend.kill()
    for file in app.folder.glob("chat.db*"):
        file.unlink()
    app.start()
    page.sign_in(app.url)
    wait_for(lambda: page.path == "/c/1", what="the first conversation")
    page.ask("New?")
    page.wait("New?", app.model.text(2), states=["end"])


def test_step_4_a_question_with_a_key_is_asked_once(stack, window):
    app = stack(4)
    page = window().sign_in(app.url)
    wait_for(lambda: page.path == "/c/1", what="the first conversation")
    question = {"key": "k-1", "text": "One?"}
    assert [page.call("POST", "/conversations/1/messages", question)[0] for _ in range(2)] == [202, 202]
    wait_for(lambda: app.answers == [(app.model.text(1), "end")], what="the answer is saved")
    assert page.call("POST", "/conversations/1/messages", question)[0] == 202
    assert len(app.model.requests) == 1 and len(app.rows()) == 2
    [(session,)] = app.rows("SELECT session FROM conversations")
    events = [fields.get(b"event", b"token") for _, fields in app.redis.xrange(f"baton:{{{session}}}")]
    assert events[0] == b"start" and events[-1] == b"end"


def test_an_app_that_was_there_before_keeps_its_messages(stack, window):
    app = stack(2)
    page = window().sign_in(app.url)
    page.ask("Before?")
    page.wait("Before?", app.model.text(1))
    wait_for(lambda: (app.model.text(1),) in app.rows("SELECT text FROM messages"), what="the answer is saved")
    app.backend.kill()
    app.write(LAST)
    app.start()
    page.reload()
    page.wait("Before?", app.model.text(1), states=["end"])
    page.ask("After?")
    page.wait("Before?", app.model.text(1), "After?", app.model.text(2), states=["end", "end"])


def test_step_5_every_window_shows_question_and_answer(app, window):
    app.model.held = 3
    one = window().sign_in(app.url)
    wait_for(lambda: one.path == "/c/1", what="the first conversation")
    two = window().open(app.url + "/c/1")
    one.ask("One?")
    for page in (one, two):
        page.wait("One?", app.model.part(1), states=["open"])
    app.model.released.set()
    for page in (one, two):
        page.wait("One?", app.model.text(1), states=["end"])
    two.ask("Two?")
    for page in (one, two):
        page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])
    assert [message["content"] for message in app.model.requests[1]] == ["One?", app.model.text(1), "Two?"]


def test_step_5_each_message_once_after_reloads(app, window):
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.text(1), states=["end"])
    app.model.held = 4
    page.ask("Two?")
    before = ["One?", app.model.text(1), "Two?"]
    page.wait(*before, app.model.part(2), states=["end", "open"])
    for _ in range(3):
        page.reload()
        page.wait(*before, app.model.part(2), states=["end", "open"])
    app.model.released.set()
    page.wait(*before, app.model.text(2), states=["end", "end"])
    for _ in range(3):
        page.reload()
        page.wait(*before, app.model.text(2), states=["end", "end"])


def test_step_5_a_double_click_asks_once(app, window):
    page = window().sign_in(app.url)
    page.shows("#ask")
    page.ask("One?", times=3)
    page.wait("One?", app.model.text(1), states=["end"])
    # A reload before the backend's word was heard: the tab sends it again.
    [(key,)] = app.rows("SELECT key FROM messages WHERE role = 'user'")
    page.run("sessionStorage.setItem('unsent 1', JSON.stringify({ key: arguments[0], text: 'One?' }))", key)
    page.reload()
    wait_for(lambda: page.run("return sessionStorage.getItem('unsent 1')") is None, what="it is sent again")
    page.wait("One?", app.model.text(1), states=["end"])
    assert len(app.model.requests) == 1


def test_step_5_a_question_waits_for_a_backend_that_is_away(app, window):
    page = window().sign_in(app.url)
    wait_for(lambda: page.path == "/c/1", what="the first conversation")
    app.backend.kill()
    page.ask("One?")
    app.start()
    page.wait("One?", app.model.text(1), states=["end"])


@pytest.mark.parametrize("server", ["baton", "redis-server"])
def test_step_5_a_server_that_was_killed_costs_nothing(app, window, server):
    app.model.held = 4
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.part(1), states=["open"])
    app.processes[server].kill()
    app.model.released.set()
    app.start_server(server)
    page.wait("One?", app.model.text(1), states=["end"], seconds=40)
    wait_for(lambda: app.answers == [(app.model.text(1), "end")], 30, "it is saved")
    app.processes[server].kill()
    page.ask("Two?")
    app.start_server(server)
    page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"], seconds=40)
    page.reload()
    page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])


def test_step_5_reset_while_an_answer_is_written(app, window):
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.text(1), states=["end"])
    app.model.held = 4
    page.ask("Two?")
    page.wait("One?", app.model.text(1), "Two?", app.model.part(2), states=["end", "open"])
    app.redis.flushall()  # Redis comes back with nothing
    app.model.released.set()
    page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])
    page.reload()
    page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])


def test_step_6_stop_stops_the_model(app, window):
    app.model.held = 3
    one = window().sign_in(app.url)
    wait_for(lambda: one.path == "/c/1", what="the first conversation")
    two = window().open(app.url + "/c/1")
    one.ask("One?")
    two.wait("One?", app.model.part(1), states=["open"])
    stopped = app.model.part(1)
    two.click("stop")
    for page in (one, two):
        page.wait("One?", stopped, states=["cancelled"])
    wait_for(lambda: app.model.left == [1], what="the model hears it")
    wait_for(lambda: app.answers == [(stopped, "cancelled")], what="it is saved")
    one.reload()
    one.wait("One?", stopped, states=["cancelled"])
    app.model.held = None
    one.ask("Two?")
    two.wait("One?", stopped, "Two?", app.model.text(2), states=["cancelled", "end"])


def test_step_7_another_process_saves_what_a_killed_one_wrote(app, window):
    app.model.held = 5
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.part(1), states=["open"])
    written = app.model.part(1)
    app.backend.kill()
    app.model.held = None
    app.start()
    page.reload()
    page.wait("One?", written, states=["error"], seconds=40)
    wait_for(lambda: app.answers == [(written, "error")], 40, "it is saved")
    page.reload()
    page.wait("One?", written, states=["error"])
    page.ask("Two?")
    page.wait("One?", written, "Two?", app.model.text(2), states=["error", "end"])


def test_step_7_what_another_process_writes_is_left_to_it(app, window):
    app.model.held = 3
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.part(1), states=["open"])
    writer, app.port = app.backend, free_port()
    app.start()
    wait_for(lambda: attached(app) == 2, what="the other process reads the answer")
    app.model.released.set()
    page.wait("One?", app.model.text(1), states=["end"])
    wait_for(lambda: app.answers == [(app.model.text(1), "end")], what="it is saved")
    writer.kill()
    assert "not yet" not in app.backend.logged()


def attached(app):
    """How many devices the gateway holds."""
    told = request(app.gateway_port, "GET", "/metrics").body.decode()
    return sum(float(line.split()[-1]) for line in told.splitlines() if re.match(r"baton_devices\b", line))


def test_step_7_an_answer_of_which_nothing_is_known_ends(app, window):
    app.model.held = 2
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.part(1), states=["open"])
    app.backend.kill()
    app.redis.flushall()
    with sqlite3.connect(app.folder / "chat.db") as database:
        database.execute("UPDATE messages SET asked = asked - 60")
    app.start()
    page.reload()
    page.wait("One?", "", states=["error"], seconds=40)
    wait_for(lambda: app.answers == [("", "error")], 40, "it is saved")


def test_step_7_a_deploy_waits_for_answers(app, window):
    app.model.held, app.model.words, app.model.pace = 2, 200, 0.01  # it goes on for 2 s
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.part(1), states=["open"])
    app.backend.signal(signal.SIGTERM)
    wait_for(app.is_closed, what="it lets nobody in any more")
    app.model.released.set()
    assert app.backend.wait(30) in (0, -signal.SIGTERM)
    assert app.answers == [(app.model.text(1), "end")]
    app.start()
    page.reload()
    page.wait("One?", app.model.text(1), states=["end"])


def test_step_8_signing_out_empties_every_window(app, window):
    app.model.held = 3
    one = window().sign_in(app.url)
    wait_for(lambda: one.path == "/c/1", what="the first conversation")
    two = window().open(app.url + "/c/1")
    one.ask("One?")
    for page in (one, two):
        page.wait("One?", app.model.part(1), states=["open"])
    one.click("logout")
    for page in (one, two):
        page.shows("#login")
        assert page.messages == [] and page.run("return sessionStorage.length") == 0
    app.model.released.set()
    wait_for(lambda: app.answers == [(app.model.text(1), "end")], what="the answer is saved")
    assert [page.messages for page in (one, two)] == [[], []]
    assert one.call("POST", "/conversations/1/token")[0] == 401
    one.open("about:blank")
    one.driver.back()
    one.shows("#login")
    assert one.messages == []
    two.sign_in(app.url + "/c/1", "eve")
    wait_for(lambda: two.path == "/c/2", what="a conversation of her own")
    assert two.messages == []


def test_step_8_what_redis_forgot_is_in_the_database(app, window):
    page = window().sign_in(app.url)
    page.ask("One?")
    page.wait("One?", app.model.text(1), states=["end"])
    [(session,)] = app.rows("SELECT session FROM conversations")
    assert 0 < app.redis.ttl(f"baton:{{{session}}}") <= 24 * 60 * 60
    wait_for(lambda: app.answers == [(app.model.text(1), "end")], what="the answer is saved")
    app.backend.kill()  # whose producer would append again what it has just ended
    app.redis.flushall()  # the day is over
    app.start()
    page.reload()
    page.wait("One?", app.model.text(1), states=["end"])
    page.ask("Two?")
    page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])


def test_step_8_deleting_takes_the_session_and_stops_the_answer(app, window):
    app.model.held, app.model.words, app.model.pace = 3, 10_000, 0.001
    one = window().sign_in(app.url)
    wait_for(lambda: one.path == "/c/1", what="the first conversation")
    two = window().open(app.url + "/c/1")
    one.ask("One?")
    two.wait("One?", app.model.part(1), states=["open"])
    [(session,)] = app.rows("SELECT session FROM conversations")
    one.click("delete")
    for page in (one, two):
        wait_for(lambda: page.path not in ("/", "/c/1"), what="another conversation is shown")
        assert page.messages == []
    app.model.released.set()
    wait_for(lambda: app.model.left == [1], 30, "the model hears it")
    assert app.rows() == []
    wait_for(lambda: app.rows("SELECT * FROM gone") == [], 40, "the session is deleted behind the answer")
    assert app.redis.keys(f"baton:{{{session}}}*") in ([], [f"baton:{{{session}}}:producers".encode()])


def test_step_9_the_second_of_two_questions_comes_back(app, window):
    app.model.held = 3
    one = window().sign_in(app.url)
    wait_for(lambda: one.path == "/c/1", what="the first conversation")
    two = window().open(app.url + "/c/1")
    one.ask("One?")
    two.wait("One?", app.model.part(1), states=["open"])
    two.ask("Two?")
    wait_for(lambda: two.run("return document.getElementById('text').value") == "Two?", what="it comes back")
    assert "being written" in two.run("return document.getElementById('note').textContent")
    app.model.released.set()
    two.wait("One?", app.model.text(1), states=["end"])
    two.click("send")
    for page in (one, two):
        page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])


def test_step_9_both_are_answered_where_that_is_wanted(stack, window):
    app = stack(LAST + 1)
    app.model.held = 3
    one = window().sign_in(app.url)
    wait_for(lambda: one.path == "/c/1", what="the first conversation")
    two = window().open(app.url + "/c/1")
    one.ask("One?")
    two.wait("One?", app.model.part(1), states=["open"])
    two.ask("Two?")
    shown = ["One?", app.model.part(1), "Two?", app.model.part(2)]
    for page in (one, two):
        page.wait(*shown, states=["open", "open"])
    one.reload()
    one.wait(*shown, states=["open", "open"])
    app.model.released.set()
    for page in (one, two):
        page.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])
    one.reload()
    one.wait("One?", app.model.text(1), "Two?", app.model.text(2), states=["end", "end"])
