"""The demo page of `baton dev` in Chromium: every button during a long answer, and both panes compared with Redis."""

import http.server
import json
import pathlib
import re
import signal
import subprocess
import threading
import time

import openai
import pytest
import redis as redis_py
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.browser import Browser, SubPath
from support.process import BATON, Process, wait_for
from support.servers import request

PANES = ["laptop", "phone"]


class SlowModel(http.server.ThreadingHTTPServer):
    """Streams `length` words, some 100 a second, until nobody listens any more."""

    length = 400

    def __init__(self):
        super().__init__(("127.0.0.1", 0), SlowAnswer)
        self.cut_short = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def kill(self):
        self.shutdown()
        self.server_close()


class SlowAnswer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": "slow", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for n in range(self.server.length):
                self._say({"delta": {"content": f"word{n} {'🎻' if n % 9 == 0 else ''}"}, "finish_reason": None})
                time.sleep(0.01)  # the pace of a model, not a wait for something
            self._say({"delta": {}, "finish_reason": "stop"})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.cut_short += 1

    def _say(self, choice):
        self.wfile.write(b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Demo:
    def __init__(self, folder, model):
        self.process = Process(folder, "dev", [BATON, "dev", "--listen", "127.0.0.1:0", "--openai", model.url])
        told = wait_for(self._listening, 30, "baton dev says where it listens")
        self.port = int(told[1])
        wait_for(lambda: all(gateway["alive"] for gateway in self.state()["gateways"]), 30, "the gateways run")
        self.redis = redis_py.from_url(self.state()["redis"], protocol=2)

    def _listening(self):
        assert self.process.alive, self.process.logged()
        return re.search(r"listening on http://\S+:(\d+)", self.process.logged())

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def state(self, session=""):
        return request(self.port, "GET", f"/dev/state?session={session}").json

    def entries(self, session):
        return [{name.decode(): value.decode() for name, value in fields.items()}
                for _, fields in self.redis.xrange(f"baton:{{{session}}}")]

    def answer(self, session):
        return "".join(entry.get("data", "") for entry in self.entries(session) if "n" in entry)

    def ended(self, session):
        return next((entry["event"] for entry in self.entries(session)
                     if entry.get("event") in ("end", "error", "cancelled")), None)


@pytest.fixture(scope="module")
def model():
    server = SlowModel()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def demo(tmp_path_factory, model):
    server = Demo(tmp_path_factory.mktemp("dev"), model)
    yield server
    server.process.signal(signal.SIGINT)
    server.process.wait(60)


@pytest.fixture(scope="module")
def browser():
    chromium = Browser()
    yield chromium
    chromium.kill()


class Desk:
    """The page with both devices, on a session of its own."""

    def __init__(self, browser, demo, session):
        self.browser, self.demo, self.session = browser, demo, session
        self.driver = browser.open(f"{demo.url}/demo?session={session}").driver
        for pane in PANES:
            self.wait_status(pane, "live")

    def within(self, pane, script, *arguments):
        """A script's result in one device's page; None while that loads."""
        return self.driver.execute_script(f"""
            const page = document.getElementById({json.dumps(pane)}).contentWindow;
            const $ = (id) => page.document.getElementById(id);
            {script}""", *arguments)

    def click(self, pane, id):
        self.within(pane, "$(arguments[0]).click()", id)

    def status(self, pane):
        return self.within(pane, "return $('status')?.textContent") or ""

    def wait_status(self, pane, part):
        wait_for(lambda: part in self.status(pane), 20, f"{pane} is {part}")

    def text(self, pane):
        return self.within(pane, "return [...page.document.querySelectorAll('.answer p')].map((p) => p.textContent).join('')")

    def questions(self, pane):
        return self.within(pane, "return [...page.document.querySelectorAll('.question')].map((q) => q.textContent)")

    def log(self):
        return [line.text for line in self.driver.find_elements(By.CSS_SELECTOR, "#log li")]

    def ask(self, text="Tell me something long"):
        self.driver.find_element(By.ID, "prompt").send_keys(text, Keys.ENTER)
        for pane in PANES:
            self.wait_words(pane, 300)

    def wait_words(self, pane, characters):
        wait_for(lambda: len(self.text(pane) or "") >= characters, 20, f"{pane} shows {characters} characters")

    def wait_log(self, pattern):
        return wait_for(lambda: next((line for line in self.log() if re.search(pattern, line)), None), 20, pattern)

    def wait_all(self):
        """The answer ends, and both devices show exactly what Redis holds."""
        wait_for(lambda: self.demo.ended(self.session), 60, "the answer ends")
        whole = self.demo.answer(self.session)
        for pane in PANES:
            wait_for(lambda: self.text(pane) == whole, 20, f"{pane} shows the whole answer")
        for wire in ("terminal", "use-chat", "openai"):
            wait_for(lambda: self.browser.run(f"return document.getElementById('{wire}').textContent") == whole, 20, f"{wire} shows the whole answer")
        return whole


@pytest.fixture
def desk(browser, demo, session):
    return Desk(browser, demo, session)


def count(desk, id):
    return int(desk.driver.find_element(By.ID, f"count-{id}").text.replace(",", ""))


def test_one_answer_on_both_devices(desk, demo):
    desk.ask("What is a baton?")
    assert desk.wait_all().startswith("word0")
    assert desk.questions("laptop") == desk.questions("phone") == ["What is a baton?"]
    wait_for(lambda: "all three agree" in desk.driver.find_element(By.ID, "agree").text, what="the counters agree")
    last = max(int(entry["n"]) for entry in demo.entries(desk.session) if "n" in entry)
    assert [count(desk, id) for id in ("producer", *PANES)] == [last] * 3
    baton, *command = desk.driver.find_element(By.ID, "attach").text.removeprefix("$ ").split(" ")
    told = subprocess.run([BATON, *command, "--until", "end"], capture_output=True, text=True, timeout=60)
    assert baton == "baton" and told.stdout == demo.answer(desk.session)
    script = desk.driver.find_element(By.ID, "retrieve").text
    assert script.startswith("OpenAI(base_url=") and script.endswith(f'~{desk.session}", stream=True)')
    with eval(script, {"OpenAI": openai.OpenAI}) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == demo.answer(desk.session)


@pytest.mark.parametrize("pane", PANES)
def test_cut_off_and_plugged_in_again(desk, pane):
    desk.ask()
    desk.click(pane, "cut")
    desk.wait_status(pane, "cut off")
    other = PANES[1 - PANES.index(pane)]
    # What had come before the cut may still be painted.
    desk.wait_words(other, len(desk.text(pane)) + 150)
    before = len(desk.text(pane))
    desk.wait_words(other, before + 300)
    assert len(desk.text(pane)) == before
    desk.click(pane, "cut")
    assert re.search(r"resumed at token \d+ on gw-\d .* 0 lost", desk.wait_log(f"{pane}: cut off and plugged in"))
    desk.wait_all()


@pytest.mark.parametrize("pane", PANES)
def test_reload(desk, pane):
    desk.ask()
    desk.click(pane, "reload")
    assert desk.wait_log(f"{pane}: reloaded, resumed at token").endswith("0 lost")
    desk.wait_all()
    assert desk.questions("laptop") == desk.questions("phone")


def test_to_the_other_gateway(desk):
    desk.ask()
    before = desk.status("laptop")
    desk.click("laptop", "move")
    assert desk.wait_log("laptop: moved on, resumed").endswith("0 lost")
    desk.wait_status("laptop", "live")
    assert desk.status("laptop") != before
    desk.wait_all()


@pytest.mark.parametrize("pane", PANES)
def test_kill_its_gateway(desk, demo, pane):
    desk.ask()
    desk.click(pane, "kill")
    assert desk.wait_log(f"{pane}: gateway killed, resumed").endswith("0 lost")
    desk.wait_all()
    wait_for(lambda: all(gateway["alive"] for gateway in demo.state()["gateways"]), 30, "the gateway is back")


def test_everything_at_once(desk, demo):
    desk.ask()
    desk.click("phone", "cut")
    desk.click("laptop", "kill")
    desk.wait_log("laptop: gateway killed, resumed")
    desk.click("phone", "cut")
    desk.click("laptop", "reload")
    desk.wait_log("laptop: reloaded")
    desk.click("phone", "move")
    desk.wait_all()
    assert not [line for line in desk.log() if "lost" in line and not line.endswith(" 0 lost")]


def test_offline_and_back(desk, browser):
    desk.ask()
    browser.offline(True)
    browser.offline(False)
    desk.wait_all()


@pytest.mark.parametrize("pane", PANES)
def test_stop(desk, demo, model, pane):
    before = model.cut_short
    desk.ask()
    desk.click(pane, "stop")
    wait_for(lambda: demo.ended(desk.session) == "cancelled", 10, "the answer is stopped")
    desk.wait_all()
    for one in PANES:
        wait_for(lambda: desk.within(one, "return $('stop').hidden"), what="no Stop where nothing runs")
    wait_for(lambda: model.cut_short > before, 10, "the model is no longer asked")


def test_typed_on_the_phone_seen_on_the_laptop(desk):
    desk.ask("First")
    desk.within("phone", "$('text').value = 'And then?'; $('say').requestSubmit()")
    wait_for(lambda: desk.questions("laptop") == desk.questions("phone") == ["First", "And then?"], what="both show it")
    desk.wait_all()


def test_two_tabs(desk, browser, demo):
    desk.ask()
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    try:
        second = Desk(browser, demo, desk.session)
        second.wait_all()
    finally:
        browser.driver.close()
        browser.driver.switch_to.window(first)
    desk.wait_all()


def test_the_phone_alone(desk, browser, demo):
    desk.ask()
    link = desk.driver.find_element(By.ID, "handover").get_attribute("href")
    browser.size(390, 844)
    try:
        browser.open(link)
        whole = "return [...document.querySelectorAll('.answer p')].map((p) => p.textContent).join('')"
        wait_for(lambda: demo.ended(desk.session), 60, "the answer ends")
        wait_for(lambda: browser.run(whole) == demo.answer(desk.session), what="the phone shows all of it")
        assert browser.run("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.size(1280, 1000)


def shown(browser):
    return browser.run("return [...document.querySelectorAll('.answer p')].map((p) => p.textContent).join('')")


def test_a_reload_of_a_finished_answer_keeps_the_count(desk, browser, demo):
    desk.ask()
    whole = desk.wait_all()
    browser.open(desk.driver.find_element(By.ID, "handover").get_attribute("href"))
    counted = "return document.getElementById('count').textContent"
    before = f"{max(int(entry['n']) for entry in demo.entries(desk.session) if 'n' in entry):,} tokens"
    wait_for(lambda: shown(browser) == whole and browser.run(counted) == before, what="text and count")
    browser.driver.refresh()
    wait_for(lambda: shown(browser) == whole, what="the text is back")
    wait_for(lambda: browser.run(counted) == before, what="so is the count")


def test_letters_twice_as_large_on_a_low_screen(desk, browser, demo):
    desk.ask()
    whole = desk.wait_all()
    link = desk.driver.find_element(By.ID, "handover").get_attribute("href")
    browser.size(844, 390)
    try:
        browser.open(link)
        browser.run("document.documentElement.style.fontSize = '32px'")
        wait_for(lambda: shown(browser) == whole, what="the text")
        browser.run("document.getElementById('note').textContent = 'attached to gw-1'")
        boxes = browser.run("""
            return [...document.body.children].filter((one) => one.offsetHeight > 0).map((one) => {
              const {top, bottom} = one.getBoundingClientRect();
              return [one.id || one.tagName, top + scrollY, bottom + scrollY];
            })""")
        talk = next(box for box in boxes if box[0] == "talk")
        assert talk[2] - talk[1] >= 100, boxes
        assert all(above[2] <= below[1] + 1 for above, below in zip(boxes, boxes[1:], strict=False)), boxes
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        browser.size(1280, 1000)


def test_what_is_laid_out_for_a_token_does_not_grow_with_the_answer(desk, browser, demo):
    browser.open(demo.url + "/demo")
    sizes = browser.run("""
        return import('./baton.js').then(({textInto}) => {
          const element = document.createElement('p');
          document.body.append(element);
          const show = textInto(element);
          const [words, sizes] = [[], []];
          let text = '';
          for (let n = 0; n < 30000; n++) {
            const word = n % 977 === 0 ? `w${n}\n` : `w${n}😀 `;
            text += word;
            show(text, 'r1', word);
            sizes.push(element.lastChild.textContent.length);
          }
          const same = element.textContent === text;
          const height = element.offsetHeight;
          element.style.width = '300px';
          return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const narrow = element.textContent === text;
            const one = element.cloneNode();
            one.style.whiteSpace = 'pre-wrap';
            one.textContent = text;
            document.body.append(one);
            const [blocks, whole] = [element.offsetHeight, one.offsetHeight];
            one.style.width = '';
            done({same, narrow, largest: Math.max(...sizes), blocks, whole, height, plain: one.offsetHeight});
          })));
        });""")
    assert sizes["same"] and sizes["narrow"]
    assert sizes["largest"] < 5000
    assert sizes["blocks"] == sizes["whole"] and sizes["height"] == sizes["plain"], sizes


@pytest.mark.parametrize("address", ["/", "/demo", "/demo/"])
def test_below_a_path_of_a_proxys(browser, demo, session, started, address):
    started.append(SubPath(demo.port))
    query = f"?session={session}" if address != "/" else ""
    browser.open(started[-1].url + address + query)
    desk = Desk.__new__(Desk)
    desk.browser, desk.demo, desk.driver = browser, demo, browser.driver
    desk.session = browser.run("return new URL(location.href).searchParams.get('session')")
    for pane in PANES:
        desk.wait_status(pane, "live")
    desk.ask()
    desk.wait_all()


def test_a_gateway_alone_below_a_path(browser, gateway, redis, session, started):
    started.append(SubPath(gateway.port))
    redis.add_tokens(session, ["all ", "of ", "it"], "r1")
    redis.add(session, event="end", response="r1")
    browser.open(f"{started[-1].url}/demo-device.html?session={session}")
    wait_for(lambda: shown(browser) == "all of it", what="the device shows the answer")
    assert "live" in browser.run("return document.getElementById('status').textContent")


def test_where_the_browser_keeps_nothing(browser, demo, session):
    script = "for (const name of ['sessionStorage', 'localStorage']) Object.defineProperty(window, name, {get() { throw new DOMException('no', 'SecurityError'); }});"
    added = browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        desk = Desk(browser, demo, session)
        desk.ask()
        desk.click("phone", "reload")
        desk.wait_all()
        assert all(desk.within(pane, "return $('problem').textContent") == "" for pane in PANES)
    finally:
        browser.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


@pytest.mark.parametrize("event", [{"isComposing": True, "keyCode": 13}, {"keyCode": 229}, {"shiftKey": True, "keyCode": 13}])
def test_the_enter_of_an_input_method_sends_nothing(desk, event):
    pressed = """
        const event = new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, ...arguments[0]});
        field.form.addEventListener('submit', (event) => { event.preventDefault(); event.stopImmediatePropagation(); window.sent = true; }, {capture: true});
        field.value = 'にほ';
        field.dispatchEvent(event);
        return [Boolean(window.sent), event.defaultPrevented];"""
    sent, prevented = desk.driver.execute_script("const field = document.getElementById('prompt');" + pressed, event)
    assert not sent
    if event.get("shiftKey") is None:
        sent, prevented = desk.within("phone", "const field = $('text');" + pressed, event)
        assert not sent and prevented  # what the browser does with this key would send it


def test_keyboard_and_labels(desk):
    unlabelled = """
        return [...document.querySelectorAll('button, input, textarea, iframe, svg')].filter((one) =>
          !one.textContent.trim() && !one.labels?.length && !one.getAttribute('aria-label') && !one.title).map((one) => one.outerHTML)"""
    assert desk.driver.execute_script(unlabelled) == []
    for pane in PANES:
        assert desk.within(pane, unlabelled.replace("document", "page.document")) == []
    seen = set()
    for _ in range(40):
        desk.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(desk.driver.execute_script("return document.activeElement.id"))
    assert {"prompt", "laptop", "phone", "handover", "copy"} <= seen


def test_without_a_network_nothing_is_asked_for(browser, demo, session):
    # What pages of other tests have said.
    browser.driver.get_log("browser")
    Desk(browser, demo, session)
    names = browser.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert names and all(name.startswith(demo.url) for name in names)
    severe = [line for line in browser.driver.get_log("browser") if line["level"] == "SEVERE" and "WebSocket" not in line["message"]]
    assert not severe


def descendants(pid):
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            pass
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path, model, number):
    demo = Demo(tmp_path, model)
    below = descendants(demo.process.pid)
    socket = pathlib.Path(demo.state()["redis"].removeprefix("unix://"))
    assert len(below) >= 3 and socket.exists()
    demo.process.signal(number)
    assert demo.process.wait(20) in (0, 130, -number)
    wait_for(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in below), 20, "every process is gone")
    wait_for(lambda: not socket.exists(), 20, "its folder is gone")
