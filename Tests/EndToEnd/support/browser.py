"""Chromium, and the ways in which a network or a proxy can spoil a page's day."""

import re
import socket
import threading

from selenium import webdriver
from selenium.webdriver.common.by import By

from .process import wait_for
from .switch import _copy


class Browser:
    def __init__(self, width=1280, height=1000):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-background-networking"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        self.driver.set_script_timeout(30)
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

    def attach(self, urls, session, name="s", **options):
        """Attaches from the page that is open; the session is `window[name]`, its events `window[name + "Events"]`.
        `platform` names a global object."""
        told = self.driver.execute_async_script("""
            const [urls, session, name, options, done] = arguments;
            options.platform = window[options.platform];
            const events = window[name + 'Events'] = [];
            for (const type of ['entry', 'reset', 'skipped', 'live', 'end', 'error', 'attached']) {
              options['on' + type] = (event) => events.push({type, ...event});
            }
            import('/baton.js').then(({attach}) => { window[name] = attach(urls, session, options); done(''); }, (error) => done(`${error}`));
            """, urls, session, name, options)  # fmt: skip
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
        if self.blocks:
            head = re.sub(rb"(?im)^(upgrade|connection|sec-websocket-\w+): .*\r\n", b"", head)
            head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        far = socket.create_connection(("127.0.0.1", self.target))
        far.sendall(head)
        threading.Thread(target=_copy, args=(near, far), daemon=True).start()
        _copy(far, near)

    def kill(self):
        self.listener.close()
