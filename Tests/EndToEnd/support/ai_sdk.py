"""The real `ai`, `@ai-sdk/react` and React in a page: marimo's wheel ships them compiled, and its chunks are searched for what they do."""

import functools
import http.server
import importlib.util
import pathlib
import threading

from .process import wait_for

FILES = pathlib.Path(importlib.util.find_spec("marimo").submodule_search_locations[0]) / "_static"

PAGE = """<!doctype html>
<marimo-filename hidden></marimo-filename>
<div id="root"></div>
<script>window.__MARIMO_MOUNT_CONFIG__ = {};</script>
<script type="importmap">{"imports": {
  "react": "data:text/javascript,export const { useEffect, useMemo, useSyncExternalStore } = React;",
  "@ai-sdk/react": "data:text/javascript,export const { useChat } = window;"
}}</script>
<script type="module">
  const source = (value) => Function.prototype.toString.call(value);
  const [sdk, dom, react] = await Promise.all(%s.map((file) => import(`/assets/${file}`)));
  const exported = (module, fits) => Object.values(module).find((value) => typeof value === 'function' && fits(value));
  const Transport = exported(sdk, (value) => value.prototype?.reconnectToStream);
  const useChat = (window.useChat = exported(sdk, (value) => !value.prototype?.constructor?.length && source(value).includes('resumeStream')));
  // CommonJS, packed: functions without arguments.
  const required = (module, name) => Object.values(module)
    .filter((value) => typeof value === 'function' && value.length === 0 && source(value).includes('exports'))
    .map((value) => value()).find((value) => value?.[name]);
  window.React = required(react, 'createElement');
  window.ReactDOM = required(dom, 'createRoot');
  const { createElement } = React;

  // One answers approvals when all of a message's are answered.
  const isAnswered = ({ messages }) => {
    const last = messages.at(-1);
    return last?.role === 'assistant' && last.parts.some((part) => part.state === 'approval-responded')
      && !last.parts.some((part) => part.state === 'approval-requested');
  };

  function Chat({ name, transport, ...options }) {
    const chat = useChat({ ...options, transport, sendAutomaticallyWhen: isAnswered, onError: (error) => (window[name].failed = `${error}`) });
    Object.assign(window[name], chat);
    (window[name].statuses ??= new Set()).add(chat.status);
    window[name].hasBegun = window[name].statuses.size > 1;
    return createElement('pre', null, chat.messages.filter((one) => one.role === 'assistant')
      .map((one) => one.parts.filter((part) => part.type === 'text').map((part) => part.text).join('')).join('|'));
  }

  const roots = {};
  window.show = async (name, options, transport, client) => {
    roots[name]?.unmount();
    window[name] = {};
    const Made = client ? (await import(client)).BatonChatTransport : Transport;
    roots[name] = ReactDOM.createRoot(document.getElementById('root').appendChild(document.createElement('div')));
    roots[name].render(createElement(Chat, { name, ...options, transport: new Made(transport) }));
  };
  window.isReady = true;
</script>
"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.split("?")[0] != "/":
            return super().do_GET()
        page = PAGE % [_chunk("reconnectToStream"), _chunk(".createRoot="), next(file.name for file in FILES.glob("assets/react-*.js") if "e.createElement=" in file.read_text())]
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *_):
        pass


@functools.cache
def _chunk(words):
    return next(file.name for file in FILES.glob("assets/*.js") if words in file.read_text())


class Server:
    """Serves the page and the chunks."""

    def __init__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(FILES)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kill(self):
        self.server.shutdown()
        self.server.server_close()


class Chat:
    """A `useChat` in a page of the server's."""

    def __init__(self, browser, server, name="chat"):
        self.browser, self.server, self.name = browser, server, name

    def open(self):
        self.browser.open(self.server.url)
        wait_for(lambda: self.browser.run("return window.isReady"), 20, "the page has the AI SDK")
        return self

    def show(self, session, transport, messages=(), client=None, **options):
        """Mounts it, in place of what was; `client` is where another transport than the default one comes from."""
        told = {"id": session, "messages": list(messages), "resume": True, **options}
        done = "window.show(arguments[0], arguments[1], arguments[2], arguments[3]).then(() => arguments[4](''), (error) => arguments[4](`${error}`))"
        failed = self.browser.driver.execute_async_script(done, self.name, told, transport, client)
        assert not failed, failed
        wait_for(lambda: self.value("status"), 20, "it is mounted")
        return self

    def value(self, path):
        return self.browser.run(f"return window[arguments[0]]?.{path}", self.name)

    def call(self, method, *arguments):
        self.browser.run(f"window[arguments[0]].{method}(...arguments[1])", self.name, list(arguments))

    def answers(self):
        return [message for message in self.value("messages") if message["role"] == "assistant"]

    def text(self):
        """Of all answers; a message begins at each `|`."""
        return "|".join("".join(part["text"] for part in message["parts"] if part["type"] == "text") for message in self.answers())

    def wait_text(self, text, seconds=20):
        wait_for(lambda: self.text() == text, seconds, f"the page shows {text!r}")

    def wait_resumed(self, seconds=20):
        """Something was sent to it since it was mounted."""
        wait_for(lambda: self.value("hasBegun"), seconds, "it has resumed")

    def wait_status(self, status, seconds=20):
        wait_for(lambda: self.value("status") == status, seconds, f"the chat is {status}")
