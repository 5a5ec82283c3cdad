"""The article Recipes: its blocks as they are, but for addresses, and what each recipe says of them."""

import json
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import types

import httpx
import pytest
from support import ai_sdk
from support.browser import Browser
from support.process import BATON, REPOSITORY, Process, free_port, wait_for
from support.servers import request
from test_ai_sdk import Message, Stream, asked, person, post
from test_relay import WORDS, Upstream, chunks, sparse

ARTICLE = (REPOSITORY / "Sources/BatonGateway/BatonGateway.docc/Recipes.md").read_text()
RECIPES = {
    title: dict(re.findall(r"^```\w+\n(?:#|//|<!--) (\S+?)(?: -->)?\n(.*?)^```$", section, re.S | re.M))
    for title, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", ARTICLE, re.S | re.M)
    if title != "Overview"
}
TEXT = "".join(WORDS)


class App:
    """A recipe's files in a folder, and what its shell starts; in place of each of `addresses` stands another one. `model` is for OpenAI's clients."""

    def __init__(self, title, folder, redis, started, addresses, model):
        self.files, self.folder, self.started, self.model = RECIPES[title], folder, started, model
        self.ports = {"8080": free_port(), "8000": free_port()}
        self.addresses = {"redis://127.0.0.1:6379/0": redis.url, **addresses}
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(self.here(text))
        self.servers = {}
        for line in self.here(self.files["shell"]).splitlines():
            assert line.endswith(" &")
            self.start(*shlex.split(line.removesuffix(" &")))
        wait_for(lambda: self.answers("8080", "/readyz"), 20, "the gateway is ready")
        if "uvicorn" in self.servers:
            wait_for(lambda: self.answers("8000", "/openapi.json"), 90, "the app answers")

    def here(self, text):
        for there, address in self.addresses.items():
            text = text.replace(there, address)
        for port, own in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(own), text)
        return text

    def start(self, program, *options):
        if program == "llama-server":
            return
        own = {"baton": [BATON], "uvicorn": [sys.executable, "-m", "uvicorn", "--log-level", "warning"], "python": [sys.executable]}[program]
        if program == "baton":
            options = (*options, "--listen", f"127.0.0.1:{self.ports['8080']}")
        env = {"PYTHONPATH": REPOSITORY / "Sources/BatonPython", "PYTHONUNBUFFERED": "1", "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": self.model}
        process = Process(self.folder, program, ["env", "-C", self.folder, *own, *options], env)
        self.started.append(process)
        self.servers[program] = process
        return process

    def answers(self, port, path):
        for process in self.servers.values():
            assert process.alive, process.logged()[-3000:]
        try:
            return request(self.ports[port], "GET", path).status == 200
        except OSError:
            return False

    def url(self, port):
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def gateway(self):
        return types.SimpleNamespace(url=self.url("8080"))

    def call(self, method, path, json=None):
        answer = httpx.request(method, self.url("8000") + path, json=json, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def app(tmp_path, redis, started):
    return lambda title, addresses={}, model="": App(title, tmp_path, redis, started, addresses, model)


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.kill()


def upstream(events):
    """A model server that says an event when it is let go on."""
    server = Upstream(events)
    server.paced = True
    return server, f"http://127.0.0.1:{server.port}/v1"


def test_llama_cpp(app, redis):
    redis.client.delete("baton:{laptop}", "baton:{laptop}:producers")
    model, url = upstream(sparse())
    laptop = app("llama.cpp on a laptop", {"http://127.0.0.1:8081/v1": url})
    asking = laptop.start("python", "ask.py", "What do you do?")
    model.go.release(5)
    wait_for(lambda: asking.logged() == "Baton passes ", 90, "it shows what comes")
    asking.signal(signal.SIGTERM)
    asking.wait()
    model.go.release(20)
    later = re.sub(r"^baton\b", BATON, (laptop.folder / "later.sh").read_text())
    done = subprocess.run(["bash", "-euc", later], capture_output=True, text=True, timeout=120)
    assert done.stdout.rstrip("\n") == TEXT.rstrip("\n"), done.stderr
    assert not model.gone.is_set()


def test_fastapi_and_openai(app, browser, session):
    model, url = upstream(sparse())
    chat = app("FastAPI and openai", {"https://api.openai.com/v1": url})
    browser.open(f"{chat.url('8000')}/?chat={session}")
    shown = lambda: browser.run("return document.getElementById('answer').textContent")
    browser.run("document.getElementById('text').value = 'What do you do?'; document.getElementById('ask').requestSubmit()")
    model.go.release(5)
    wait_for(lambda: shown() == "Baton passes ", 20, "the page shows what comes")
    # A deploy in mid-answer.
    chat.servers["uvicorn"].kill()
    model.go.release(20)
    wait_for(lambda: shown() == TEXT, 20, "the page shows the rest")
    chat.start("uvicorn", "--port", str(chat.ports["8000"]), "app:app")
    wait_for(lambda: chat.answers("8000", "/"), 90, "the app is there again")
    model.go = threading.Semaphore(0)
    question = {"key": "k-1", "text": "And then?"}
    ids = {chat.call("POST", f"/chats/{session}", question) for _ in range(2)}
    assert len(ids) == 1 and len(model.requests) == 2
    [answer] = ids
    model.go.release(4)
    wait_for(lambda: chat.call("GET", f"/answers/{answer}") == {"status": "in_progress", "text": "Baton "}, 20, "the backend reads it")
    assert chat.call("POST", f"/answers/{answer}/stop") == "cancelled"
    assert model.gone.wait(20)
    # The page's own stop.
    model.gone.clear()
    third = chat.call("POST", f"/chats/{session}", {"key": "k-2", "text": "Again."})
    model.go.release(5)
    wait_for(lambda: shown() == "Baton passes ", 20, "the page shows the third")
    browser.run("document.getElementById('stop').click()")
    assert model.gone.wait(20)
    wait_for(lambda: chat.call("GET", f"/answers/{third}") == {"status": "cancelled", "text": "Baton passes "}, 20, "it is stopped")


# Next.js. Of each package as much as the route asks for.

AI = """
    export const convertToModelMessages = async (messages) =>
      messages.map(({ role, parts }) => ({ role, content: parts.map(({ type, text }) => (type === 'text' ? text : '')).join('') }));
    export const UI_MESSAGE_STREAM_HEADERS = { 'Content-Type': 'text/event-stream', 'X-Vercel-AI-UI-Message-Stream': 'v1' };
    export const generateId = () => crypto.randomUUID();
    export const consumeStream = async ({ stream }) => { for await (const _ of stream); };
    export const streamText = ({ model, messages, abortSignal }) => ({
      toUIMessageStreamResponse({ originalMessages, generateMessageId, consumeSseStream, onFinish }) {
        const id = generateMessageId();
        async function* chunks() {
          let text = '';
          yield* [{ type: 'start', messageId: id }, { type: 'start-step' }, { type: 'text-start', id: 't' }];
          try {
            for await (const delta of model(messages, abortSignal)) {
              text += delta;
              yield { type: 'text-delta', id: 't', delta };
            }
            yield* [{ type: 'text-end', id: 't' }, { type: 'finish-step' }, { type: 'finish' }];
          } catch (error) {
            yield abortSignal.aborted ? { type: 'abort' } : { type: 'error', errorText: `${error}` };
          }
          await onFinish({ messages: [...originalMessages, { id, role: 'assistant', parts: [{ type: 'text', text }] }] });
        }
        async function* events() {
          for await (const chunk of chunks()) yield `data: ${JSON.stringify(chunk)}\\n\\n`;
          yield 'data: [DONE]\\n\\n';
        }
        const next = events();
        const [stream, copy] = new ReadableStream({
          async pull(to) {
            const { done, value } = await next.next();
            if (done) to.close();
            else to.enqueue(value);
          },
        }).tee();
        consumeSseStream({ stream: copy });
        return new Response(stream.pipeThrough(new TextEncoderStream()), { headers: UI_MESSAGE_STREAM_HEADERS });
      },
    });"""
OPENAI = """
    export const openai = (model) => async function* (messages, signal) {
      const body = JSON.stringify({ model, messages, stream: true });
      const answer = await fetch(`${process.env.OPENAI_BASE_URL}/chat/completions`, { method: 'POST', body, signal });
      let rest = '';
      for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
        const lines = (rest + piece).split('\\n');
        rest = lines.pop();
        for (const line of lines.filter((line) => line.startsWith('data: {'))) {
          const { content } = JSON.parse(line.slice(6)).choices[0].delta;
          if (content) yield content;
        }
      }
    };"""
NEXT = "export const after = (task) => void Promise.resolve(task).catch(console.error);"
STORE = """
    import { existsSync, readFileSync, writeFileSync } from 'node:fs';
    export const load = (id) => (existsSync(`${id}.json`) ? JSON.parse(readFileSync(`${id}.json`)) : {});
    export const save = (id, chat) => writeFileSync(`${id}.json`, JSON.stringify({ ...load(id), ...chat }));"""
SERVE = """
    import { createServer } from 'node:http';
    import { Readable } from 'node:stream';
    createServer(async (request, response) => {
      response.setHeader('Access-Control-Allow-Origin', '*');
      response.setHeader('Access-Control-Allow-Headers', '*');
      const { headers, method, url } = request;
      if (method === 'OPTIONS') return response.end();
      const id = url.match(/^\\/api\\/chat\\/([^/]+)\\/stream$/)?.[1];
      const route = await import(id ? './app/api/chat/[id]/stream/route.js' : './app/api/chat/route.js');
      const left = new AbortController();
      response.on('close', () => left.abort());
      const asked = { method, headers, ...(id ? {} : { body: Readable.toWeb(request), duplex: 'half' }), signal: left.signal };
      const answer = await route[method](new Request(`http://127.0.0.1${url}`, asked), { params: Promise.resolve({ id }) });
      response.writeHead(answer.status, Object.fromEntries(answer.headers));
      if (answer.body) Readable.fromWeb(answer.body).pipe(response);
      else response.end();
    }).listen(Number(process.argv[2]), '127.0.0.1');"""


class Node:
    """A recipe's routes in a process of Node, as Next.js calls them."""

    def __init__(self, folder):
        self.port, self.folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, started, **env):
        packages = {"ai": AI, "@ai-sdk/openai": OPENAI, "next": NEXT}
        files = {"package.json": '{"type": "module"}', "serve.js": SERVE, "store.js": STORE}
        for name, text in packages.items():
            exports = {"exports": {".": "./index.js", "./server": "./index.js"}, "type": "module"}
            files |= {f"node_modules/{name}/index.js": text, f"node_modules/{name}/package.json": json.dumps(exports)}
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        started.append(Process(self.folder, f"node-{self.port}", ["env", "-C", self.folder, "node", "serve.js", self.port], env))
        wait_for(lambda: is_open(self.port), 20, "the routes are served")


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def page(browser):
    server = ai_sdk.Server()
    yield ai_sdk.Chat(browser, server)
    server.kill()


def test_next_js(app, page, browser, session, tmp_path, started):
    model, url = upstream([f"data: {json.dumps(chunk)}\n\n" for chunk in chunks()])
    route = Node(tmp_path)
    next_js = app("Next.js and the AI SDK", {"http://127.0.0.1:3000": route.url, "http://127.0.0.1:8000": page.server.url.rstrip("/")})
    route.start(started, OPENAI_BASE_URL=url)
    component = (tmp_path / "app/chat/[id]/chat.jsx").read_text().replace("'baton/ai-sdk'", f"'{next_js.gateway.url}/baton-ai-sdk.js'")
    script = f"console.log(require('/usr/share/nodejs/typescript').transpile({json.dumps(component)}, {{ jsx: 2, target: 9, module: 6 }}))"
    compiled = subprocess.run(["node", "-e", script], check=True, capture_output=True, text=True, timeout=120).stdout

    def show(stored):
        page.open()
        browser.run("""
            const [code, id, stored] = arguments;
            import(`data:text/javascript,${encodeURIComponent(code)}`).then(({ default: Chat }) => {
              ReactDOM.createRoot(document.getElementById('root')).render(React.createElement(Chat, { id, stored }));
            });""", compiled, session, stored)  # fmt: skip
        wait_for(lambda: browser.run("return document.querySelector('form')"), 20, "the page is shown")

    def shown():
        return browser.run("return [...document.querySelectorAll('#root p')].map(({ className, textContent }) => [className, textContent])")

    def ask(text):
        browser.run("document.querySelector('input').value = arguments[0]; document.querySelector('form').requestSubmit()", text)

    show([])
    ask("What do you do?")
    model.go.release(3)
    question = ["user", "What do you do?"]
    wait_for(lambda: shown() == [question, ["assistant", "Baton passes "]], 20, "it shows what comes")
    stored = [{"id": "u", "role": "user", "parts": [{"type": "text", "text": question[1]}]}]
    show(stored)
    wait_for(lambda: shown() == [question, ["assistant", "Baton passes "]], 20, "after a reload, too")
    model.go.release(20)
    wait_for(lambda: shown() == [question, ["assistant", TEXT]], 20, "and the rest")
    saved = tmp_path / f"{session}.json"
    wait_for(saved.exists, 20, "the route has saved it")
    assert [message["role"] for message in json.loads(saved.read_text())["messages"]] == ["user", "assistant"]
    wait_for(lambda: not browser.run("return document.querySelector('button')"), 20, "there is nothing to stop")
    assert len(model.requests) == 1

    model.go = threading.Semaphore(0)
    ask("And then?")
    model.go.release(3)
    wait_for(lambda: shown()[2:] == [["user", "And then?"], ["assistant", "Baton passes "]], 20, "the second answer")
    browser.run("document.querySelector('button').click()")
    assert model.gone.wait(20)
    wait_for(lambda: not browser.run("return document.querySelector('button')"), 20, "it is stopped")
    wait_for(lambda: json.loads(saved.read_text())["messages"][-1]["parts"] == [{"type": "text", "text": "Baton passes "}], 20, "what there is of it is saved")
    assert model.requests[1][2]["messages"][1] == {"role": "assistant", "content": TEXT}

    model.go = threading.Semaphore(0)
    model.go.release(20)
    asked(next_js.gateway, session, person("From another device.", "u-9"))
    wait_for(lambda: shown()[-1] == ["assistant", TEXT], 20, "it hears of an answer that begins elsewhere")


def test_resumable_stream(app, page, session, tmp_path, started):
    model, url = upstream([f"data: {json.dumps(chunk)}\n\n" for chunk in chunks()])
    chatbot = app("A chatbot with resumable-stream")
    package = tmp_path / "node_modules/baton"
    package.mkdir(parents=True)
    archive = httpx.get(f"{chatbot.gateway.url}/baton.tgz").content
    subprocess.run(["tar", "-xz", "--strip-components=1", "-C", package], input=archive, check=True)
    nodes = [Node(tmp_path), Node(tmp_path)]
    for node in nodes:
        node.start(started, OPENAI_BASE_URL=url, BATON_URL=chatbot.gateway.url)
    apis = [{"api": f"{node.url}/api/chat"} for node in nodes]

    page.open().show(session, apis[0])
    page.wait_status("ready")
    page.call("sendMessage", {"text": "What do you do?"})
    model.go.release(3)
    page.wait_text("Baton passes ")
    stored = json.loads((tmp_path / f"{session}.json").read_text())["messages"]
    page.open().show(session, apis[1], stored)
    page.wait_text("Baton passes ")
    model.go.release(20)
    page.wait_text(TEXT)
    page.wait_status("ready")
    wait_for(lambda: json.loads((tmp_path / f"{session}.json").read_text()).get("streamId") is None, 20, "it is saved")
    stored = json.loads((tmp_path / f"{session}.json").read_text())["messages"]
    page.open().show(session, apis[1], stored)
    page.wait_status("ready")
    assert page.text() == TEXT and len(page.value("messages")) == 2 and len(model.requests) == 1


class Weather(Upstream):
    """Calls the tool, and tells of what it said."""

    def answer(self, handler, number):
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "degrees", "arguments": '{"city": "Rome"}'}}
        said = [message["content"] for message in self.requests[-1][2]["messages"] if message["role"] == "tool"]
        told = chunks([f"{said[0]} ", "degrees."]) if said else chunks()[:1] + chunks()[-1:]
        if not said:
            told[0]["choices"][0]["delta"]["tool_calls"] = [call]
            told[-1]["choices"][0]["finish_reason"] = "tool_calls"
        self.events = [f"data: {json.dumps(chunk)}\n\n" for chunk in told] + ["data: [DONE]\n\n"]
        super().answer(handler, number)


def test_pydantic_ai(app, session):
    model = Weather([])
    model.paced = True
    agent = app("pydantic-ai", model=f"http://127.0.0.1:{model.port}/v1")
    model.go.release(3 + 2)
    with post(agent.gateway, session, person("How warm is Rome?")) as stream:
        for chunk in stream:
            if chunk["type"] == "text-delta":
                break
    # Nobody reads it now.
    model.go.release(20)
    with httpx.stream("GET", f"{agent.gateway.url}/v1/ai-sdk/{session}/stream", timeout=120) as response:
        message = Message(Stream(response).rest())
    assert message.text == "21 degrees." and message.end == "finish"
    [tool] = [part for part in message.parts if part["type"] == "tool-degrees"]
    assert (tool["input"], tool["output"]) == ({"city": "Rome"}, 21)
    assert len(model.requests) == 2 and not model.gone.is_set()


def test_ag_ui(app, redis):
    redis.client.delete("baton:{trip}", "baton:{trip}:producers")
    model = Weather([])
    model.paced = True
    agent = app("An AG-UI agent", model=f"http://127.0.0.1:{model.port}/v1")
    shell = lambda name: ["bash", "-euc", (agent.folder / name).read_text()]
    model.go.release(3 + 2)
    with subprocess.Popen(shell("ask.sh"), stdout=subprocess.PIPE, text=True) as asking:
        assert any("TEXT_MESSAGE_CONTENT" in line for line in asking.stdout)
        asking.kill()
    # Nobody reads it now.
    model.go.release(20)
    later = subprocess.run(shell("later.sh"), capture_output=True, text=True, timeout=120)
    told = [json.loads(line.removeprefix("data: ")) for line in later.stdout.splitlines() if line.startswith("data: ")]
    assert told[0]["type"] == "RUN_STARTED" and told[-1]["type"] == "RUN_FINISHED", later.stderr
    assert "".join(event["delta"] for event in told if event["type"] == "TEXT_MESSAGE_CONTENT") == "21 degrees."
    assert [event["content"] for event in told if event["type"] == "TOOL_CALL_RESULT"] == ["21"]
    assert len(model.requests) == 2 and not model.gone.is_set()


def test_your_database_first(app, browser, redis, session):
    chat = app("Your database first, then attach")
    said = lambda text: httpx.post(f"{chat.gateway.url}/v1/sessions/{session}/input", json={"data": text}).raise_for_status()
    said("One?")
    redis.add_tokens(session, ["first ", "answer"], "r1")
    redis.add(session, event="end", response="r1")
    stored = lambda: [message["text"] for message in chat.call("GET", f"/chats/{session}")["messages"]]
    saving = chat.start("python", "save.py", session)
    wait_for(lambda: stored() == ["One?", "first answer"], 90, "it is saved")
    said("Two?")
    redis.add_tokens(session, ["second "], "r2")
    # Who saves dies. What is saved is not taken from the session again, neither by the page nor by who goes on saving.
    saving.kill()
    with sqlite3.connect(chat.folder / "chats.db") as database:
        database.execute("UPDATE messages SET text = 'first answer, mended' WHERE text = 'first answer'")
    place = chat.call("GET", f"/chats/{session}")["offset"].split(".")[0]
    browser.open(f"{chat.url('8000')}/?chat={session}")
    shown = lambda: browser.run("return [...document.querySelectorAll('li')].map(({ className, textContent }) => `${className}: ${textContent}`)")
    told = ["user: One?", "assistant: first answer, mended", "user: Two?", "assistant: second "]
    wait_for(lambda: shown() == told, 20, "the page shows what was saved, and the rest")
    redis.client.xtrim(f"baton:{{{session}}}", minid=place, approximate=False)
    browser.driver.refresh()
    wait_for(lambda: shown() == told, 20, "also where Redis has let go of the first")
    chat.start("python", "save.py", session)
    redis.add(session, response="r2", n=2, data="answer")
    redis.add(session, event="end", response="r2")
    wait_for(lambda: stored() == ["One?", "first answer, mended", "Two?", "second answer"], 90, "it goes on saving")
    wait_for(lambda: shown()[-1] == "assistant: second answer", 20, "the page shows it")
    redis.client.delete(f"baton:{{{session}}}", f"baton:{{{session}}}:producers")
    browser.driver.refresh()
    wait_for(lambda: shown() == [*told[:3], "assistant: second answer"], 20, "what is saved stays where Redis has nothing")


def test_every_block_is_run():
    assert set(RECIPES) == {
        "llama.cpp on a laptop", "FastAPI and openai", "Next.js and the AI SDK", "A chatbot with resumable-stream", "pydantic-ai",
        "An AG-UI agent", "Your database first, then attach"}  # fmt: skip
    blocks = re.findall(r"^```", ARTICLE, re.M)
    assert len(blocks) == 2 * sum(map(len, RECIPES.values()))
