"""`/baton.tgz`: what an app gets that installs the client from a gateway."""

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile

import pytest
from support.process import REPOSITORY

CLIENT = REPOSITORY / "Sources/BatonGateway/Web/client"
REACT = "/usr/share/nodejs"

APP = """
import { attach, BatonError, compareOffsets, textInto, version, type Options, type Session } from 'baton';
import { useBaton, type Baton } from 'baton/react';
import { BatonChatTransport } from 'baton/ai-sdk';
import { createResumableStreamContext, type ResumableStreamContext } from 'baton/resumable';

const options: Options = { last: 10, token: async () => 'jwt', ontext: (text, response, added) => console.log(text.length, response, added?.length) };
export const session: Session = attach(['https://gw-1', 'https://gw-2'], 'chat-42', options);
session.addEventListener('end', ({ detail }) => console.log(detail.reason));
export async function all(): Promise<string[]> {
  const texts: string[] = [];
  for await (const event of session) if (event.type === 'entry' && event.event === 'token') texts.push(event.data ?? '');
  return texts;
}
export const ordered: number = compareOffsets('1-0', '2-0');
export function Answer(): string {
  const chat: Baton = useBaton('', undefined, { device: 'd' });
  chat.input('hi').then(({ inboxId }) => inboxId.length, (error: unknown) => error instanceof BatonError && error.code);
  chat.stop().then((stopped) => stopped.length);
  return [...chat.responses.values()].map(({ text }) => text).join() + chat.text + version + (chat.end?.reason ?? chat.state);
}
textInto(document.body);
export const chat: Promise<ReadableStream<string> | null> =
  new BatonChatTransport<object, string>({ url: 'https://gw-1', token: 'jwt' }).reconnectToStream({ chatId: 'chat-42' });
const streams: ResumableStreamContext = createResumableStreamContext({ waitUntil: (promise) => void promise.then(() => {}), subscriber: {} });
export const resumed: Promise<ReadableStream<string> | null | undefined> = streams.resumeExistingStream('a', 5);
// @ts-expect-error no such option
attach('', 's', { ofset: '0' });
// @ts-expect-error a name is needed
useBaton('');
"""


@pytest.fixture(scope="module")
def archive(gateway):
    return gateway.get("/baton.tgz").body


@pytest.fixture(scope="module")
def app(gateway, archive, tmp_path_factory):
    """An app that has installed it: with npm where there is one, else as npm does."""
    app = tmp_path_factory.mktemp("app")
    (app / "package.json").write_text('{"type": "module", "private": true}')
    if shutil.which("npm"):
        nowhere = "http://127.0.0.1:9/"
        told = subprocess.run(
            ["npm", "install", "--registry", nowhere, "--no-audit", "--no-fund", "--cache", app / "cache", f"{gateway.url}/baton.tgz"],
            cwd=app, capture_output=True, text=True, timeout=60)  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert json.loads((app / "package.json").read_text())["dependencies"] == {"baton": f"{gateway.url}/baton.tgz"}
    else:
        (app / "node_modules/baton").mkdir(parents=True)
        subprocess.run(["tar", "-xz", "--strip-components=1", "-C", app / "node_modules/baton"], input=archive, check=True)
    for name in ("react", "react-dom"):
        (app / "node_modules" / name).symlink_to(f"{REACT}/{name}")
    return app


def node(app, script):
    told = subprocess.run(["node", "--input-type=module", "-e", script], cwd=app, env={**os.environ, "NODE_PATH": REACT}, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_any_gateway_serves_the_same_bytes(gateway, gateway2, archive):
    answer = gateway2.get("/baton.tgz")
    assert answer.body == archive and answer.headers["content-type"] == "application/gzip"
    assert gateway.get("/baton.tgz", If_None_Match=answer.headers["etag"]).status == 304


def test_it_holds_the_files_that_are_served(gateway, archive):
    members = tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive)), errorlevel=2).getmembers()
    names = {member.name.removeprefix("package/") for member in members}
    assert names == {file.name for file in CLIENT.iterdir()} | {"package.json"}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in members:
            assert member.name.startswith("package/") and member.mode == 0o644 and member.isfile()
            content = files.extractfile(member).read()
            if not member.name.endswith("package.json"):
                assert content == gateway.get(member.name.removeprefix("package")).body, member.name
    assert subprocess.run(["tar", "-tzf", "-"], input=archive, capture_output=True).stderr == b""


def test_node_imports_what_its_types_say(app):
    package = json.loads((app / "node_modules/baton/package.json").read_text())
    entries = {path: entry for path, entry in package["exports"].items() if path != "./package.json"}
    assert set(entries) == {".", "./react", "./ai-sdk", "./resumable"}
    for path, entry in entries.items():
        types = (app / "node_modules/baton" / entry["types"]).read_text()
        declared = re.findall(r"^export (?:async )?(?:declare )?(?:class|function|const) (\w+)", types, re.M)
        exported = node(app, f"console.log(JSON.stringify(Object.keys(await import('baton{path[1:]}'))))")
        assert sorted(exported) == sorted(set(declared)), path
    assert node(app, "import { version } from 'baton'; console.log(JSON.stringify(version))") == package["version"]


def test_what_the_hook_gives_is_what_its_types_say(app):
    types = (app / "node_modules/baton/baton-react.d.ts").read_text()
    declared = re.findall(r"readonly (\w+):", re.search(r"interface Baton \{(.*?)\n\}", types, re.S)[1])
    rendered = node(app, """
        import { createElement } from 'react';
        import { renderToString } from 'react-dom/server';
        import { useBaton } from 'baton/react';
        let given;
        const html = renderToString(createElement(() => { given = useBaton('https://gw-1', 'chat-42'); return given.state; }));
        console.log(JSON.stringify([html, Object.keys(given)]));""")  # fmt: skip
    assert rendered == ["connecting", declared]


def test_types(app):
    (app / "app.ts").write_text(APP)
    (app / "tsconfig.json").write_text(json.dumps({"files": ["app.ts"], "compilerOptions": {
        "strict": True, "noEmit": True, "target": "es2022", "lib": ["es2022", "dom", "dom.iterable"], "types": [],
        "module": "node16"}}))  # fmt: skip
    told = subprocess.run(["tsc", "-p", "."], cwd=app, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout
