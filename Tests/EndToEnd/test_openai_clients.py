"""What OpenAI's official client does besides streaming a response: through a gateway it is as with the model server itself."""

import asyncio
import http.server
import json
import socket
import threading

import openai
import pydantic
import pytest
from support.process import wait_for
from support.servers import gateways
from support.tokens import SECRET, token
from test_relay import WORDS, client, event, events_of, sparse
from test_upstreams import KEY

JSON = {"Content-Type": "application/json"}
MESSAGES = [{"role": "user", "content": "hi"}]


def completion(text="ok", **more):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": None}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **more}


def chunk(*choices, **more):
    return {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": list(choices), **more}


def choice(index=0, finish=None, logprobs=None, **delta):
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}


LOGPROBS = {"content": [{"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": []}], "refusal": None}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
CHUNKS = [
    chunk(choice(0, role="assistant", content="")), chunk(choice(1, role="assistant", content="")),
    chunk(choice(0, content="a")), chunk(choice(1, content="B")), chunk(choice(0, content="b", logprobs=LOGPROBS)),
    chunk(choice(0, content="c"), choice(1, content="C")), chunk(choice(1, tool_calls=[CALL])),
    chunk(choice(1, tool_calls=[{"index": 0, "function": {"arguments": '{"a":1}'}}])),
    chunk(choice(0, "stop")), chunk(choice(1, "tool_calls")),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}),
]  # fmt: skip
MULTIPART = b"RIFF\x00\xff\r\n--not a boundary\r\n" * 100


class Model:
    """A model server with all of OpenAI's API that is asked for here: `answers` are by method and path."""

    def __init__(self):
        self.requests, self.answers, self.closed = [], {}, threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.command, self.path, self.headers, body))
                answer = outer.answers.get((self.command, self.path.split("?")[0]), (404, {"error": {"message": "no such path"}}))
                if callable(answer):
                    answer = answer(self, body)
                if answer is None:
                    return
                status, told, headers = (*answer, {})[:3]
                told = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                for name, value in {**JSON, "Content-Length": str(len(told)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_POST = do_DELETE = do

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stream(self, *events):
        told = "".join(one if isinstance(one, str) else f"data: {json.dumps(one)}\n\n" for one in events)
        return 200, told.encode(), {"Content-Type": "text/event-stream"}


@pytest.fixture(scope="module")
def model():
    return Model()


@pytest.fixture(scope="module")
def relays(model, tmp_path_factory, redis):
    with gateways(tmp_path_factory.mktemp("clients"), redis, "clients", "--openai", model.url, env={"OPENAI_API_KEY": KEY}) as started:
        yield started


@pytest.fixture(autouse=True)
def afresh(model):
    model.requests.clear()
    model.answers.clear()
    model.answers["POST", "/v1/responses"] = model.stream(*sparse())
    model.answers["POST", "/v1/chat/completions"] = model.stream(*CHUNKS, "data: [DONE]\n\n")


def ask(gateway, session, **more):
    return client(gateway).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session}, **more)


# Responses


class Sum(pydantic.BaseModel):
    left: int
    right: int


def test_a_parsed_answer(relays, model, session):
    model.answers["POST", "/v1/responses"] = model.stream(*sparse(['{"left":', '1,"right"', ":2}"]))
    answer = client(relays[0]).responses.parse(model="m", input="hi", text_format=Sum, extra_headers={"Baton-Session": session})
    assert answer.output_parsed == Sum(left=1, right=2)
    asked = json.loads(model.requests[-1][3])
    assert asked["text"]["format"]["schema"]["required"] == ["left", "right"]
    with client(relays[0]).responses.stream(model="m", input="hi", text_format=Sum) as stream:
        assert stream.get_final_response().output_parsed == Sum(left=1, right=2)


def test_the_raw_answer_and_its_headers(relays, session):
    raw = client(relays[0]).responses.with_raw_response.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    assert raw.headers["baton-session"] == session and raw.parse().output_text == "".join(WORDS)
    with client(relays[0]).responses.with_streaming_response.create(
        model="m", input="hi", stream=True, extra_headers={"Baton-Session": session}
    ) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert [one.type for one in streamed.parse()][-1] == "response.completed"


def test_read_again_by_the_official_client(relays, session):
    whole = [one.to_dict() for one in ask(relays[0], session, stream=True)]
    id = whole[0]["response"]["id"]
    for number, one in enumerate(whole):
        again = client(relays[number % 2]).responses.retrieve(id, stream=True, starting_after=one["sequence_number"])
        assert [event.to_dict() for event in again] == whole[number + 1 :]
    # The helper reads from the beginning, and tells what comes after the number.
    with client(relays[1]).responses.stream(response_id=id, starting_after=2) as stream:
        told = [one.sequence_number for one in stream if getattr(one, "sequence_number", None) is not None]
    assert sorted(set(told)) == [one["sequence_number"] for one in whole if one["sequence_number"] > 2]


def test_without_waiting_for_each_other(relays, model, session):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{relays[0].url}/v1", api_key="none", max_retries=0) as asking:
            streams = await asyncio.gather(*(
                asking.responses.create(model="m", input="hi", stream=True, extra_headers={"Baton-Session": f"{session}-{number}"})
                for number in range(5)))  # fmt: skip
            for stream in streams:
                assert [one.type async for one in stream][-1] == "response.completed"
            done = await asking.responses.create(model="m", input="hi", background=True)
            while (now := await asking.responses.retrieve(done.id)).status != "completed":
                await asyncio.sleep(0.02)
            assert now.output_text == "".join(WORDS)
            assert (await asking.responses.cancel(done.id)).status == "completed"
            await asking.responses.delete(done.id)

    asyncio.run(run())


def test_what_is_repeated_with_its_key_costs_one_generation(relays, model, session):
    """The client repeats what has failed by itself; with a key it finds what the first attempt has begun."""
    slow = threading.Event()

    def answer(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for one in sparse()[:4]:
            handler.wfile.write(one.encode())
        slow.wait(30)
        for one in sparse()[4:]:
            handler.wfile.write(one.encode())

    model.answers["POST", "/v1/responses"] = answer
    impatient = openai.OpenAI(base_url=f"{relays[0].url}/v1", api_key="none", max_retries=3, timeout=1)
    threading.Timer(2, slow.set).start()
    done = impatient.responses.create(model="m", input="hi", extra_headers={"Baton-Session": session, "Idempotency-Key": "k"})
    assert done.output_text == "".join(WORDS) and len(model.requests) == 1


def test_what_the_model_server_keeps_of_a_question(relays, model, session):
    model.answers["GET", "/v1/responses/up_1/input_items"] = (
        200, {"object": "list", "data": [{"id": "i", "type": "message", "role": "user", "status": "completed", "content": []}],
              "first_id": "i", "last_id": "i", "has_more": False})  # fmt: skip
    id = ask(relays[0], session).id
    assert [one.id for one in client(relays[1]).responses.input_items.list(id, limit=5, order="asc")] == ["i"]
    assert model.requests[-1][1] == "/v1/responses/up_1/input_items?limit=5&order=asc"
    with pytest.raises(openai.NotFoundError):
        client(relays[1]).responses.input_items.list(f"resp_{'0' * 24}~{session}")
    plain = event("response.completed", response={"status": "completed", "output": []})
    model.answers["POST", "/v1/responses"] = model.stream(plain)
    with pytest.raises(openai.NotFoundError, match="keeps no responses"):
        client(relays[1]).responses.input_items.list(ask(relays[0], session).id)


def test_questions_about_no_response(relays, model):
    model.answers["POST", "/v1/responses/input_tokens"] = 200, {"object": "response.input_tokens", "input_tokens": 11}
    assert client(relays[0]).responses.input_tokens.count(model="m", input="hi").input_tokens == 11


# Chat Completions


def test_chunks_with_all_that_may_be_in_them(relays, model, session):
    """Two choices, tools, probabilities and usage: the chunks say what the model server's say."""
    stream = client(relays[0]).chat.completions.create(
        model="m", messages=MESSAGES, n=2, logprobs=True, stream=True, stream_options={"include_usage": True},
        tools=[{"type": "function", "function": {"name": "add", "parameters": {}}}], extra_headers={"Baton-Session": session})  # fmt: skip

    def said(told):
        text, rest = {0: "", 1: ""}, []
        for one in told:
            assert (one["id"], one["object"], one["created"], one["model"]) == ("c", "chat.completion.chunk", 7, "m")
            for part in one["choices"]:
                text[part["index"]] += part["delta"].get("content") or ""
                rest.append((part["index"], part["finish_reason"], part["delta"].get("tool_calls"), part.get("logprobs")))
        return text, [one for one in rest if any(one[1:])], [one["usage"] for one in told if one.get("usage")]

    assert said([one.to_dict() for one in stream]) == said(CHUNKS)
    assert json.loads(model.requests[-1][3])["stream_options"] == {"include_usage": True}


def test_the_chat_helper_streams(relays, session):
    with client(relays[0]).chat.completions.stream(model="m", messages=MESSAGES, n=2, extra_headers={"Baton-Session": session}) as stream:
        final = stream.get_final_completion()
    assert [one.message.content for one in final.choices] == ["abc", "BC"] and final.usage.total_tokens == 12
    assert final.choices[1].message.tool_calls[0].function.arguments == '{"a":1}'
    assert final.choices[0].logprobs.content[0].token == "b"


def test_the_first_chunk_may_be_text(relays, model, session):
    model.answers["POST", "/v1/chat/completions"] = model.stream(
        chunk(choice(content="a")), chunk(choice(content="b")), chunk(choice(finish="stop")), "data: [DONE]\n\n")
    told = client(relays[0]).chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_headers={"Baton-Session": session})
    told = [one.to_dict() for one in told]
    assert {(one.get("id"), one.get("created"), one.get("model")) for one in told} == {("c", 7, "m")}
    assert "".join(part["delta"].get("content") or "" for one in told for part in one["choices"]) == "ab"


# What is passed on


def test_files_and_audio(relays, model):
    model.answers["POST", "/v1/files"] = 200, {"id": "file-1", "object": "file", "bytes": 7, "created_at": 1, "filename": "a.wav", "purpose": "user_data", "status": "processed"}
    model.answers["POST", "/v1/audio/transcriptions"] = 200, {"text": "hello"}
    model.answers["POST", "/v1/audio/speech"] = 200, MULTIPART, {"Content-Type": "audio/mpeg"}
    model.answers["GET", "/v1/files/file-1/content"] = 200, MULTIPART, {"Content-Type": "application/octet-stream", "Content-Disposition": 'attachment; filename="a.wav"'}
    model.answers["DELETE", "/v1/files/file-1"] = 200, {"id": "file-1", "object": "file", "deleted": True}
    ours = client(relays[0])
    assert ours.files.create(file=("a.wav", MULTIPART), purpose="user_data").id == "file-1"
    _, _, headers, body = model.requests[-1]
    boundary = headers["Content-Type"].removeprefix("multipart/form-data; boundary=").encode()
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=") and body.startswith(b"--" + boundary) and MULTIPART in body
    assert ours.audio.transcriptions.create(model="m", file=("a.wav", MULTIPART)).text == "hello"
    assert ours.audio.speech.create(model="m", voice="alloy", input="hi").content == MULTIPART
    told = ours.files.with_raw_response.content("file-1")
    assert told.content == MULTIPART and told.headers["content-disposition"] == 'attachment; filename="a.wav"'
    assert ours.files.delete("file-1").deleted


def test_what_is_no_json_is_passed_on_as_it_comes(relays, model, redis):
    go, gone = threading.Semaphore(0), threading.Event()

    def answer(type, *pieces):
        def write(handler, body):
            handler.send_response(200)
            handler.send_header("Content-Type", type)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            try:
                for piece in pieces:
                    go.acquire(timeout=30)
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                handler.wfile.write(b"0\r\n\r\n")
            except OSError:
                gone.set()

        return write

    texts = [f"data: {json.dumps({'id': 'c', 'object': 'text_completion', 'created': 1, 'model': 'm', 'choices': [{'index': 0, 'text': text}]})}\n\n".encode() for text in "abc"]
    model.answers["POST", "/v1/completions"] = answer("text/event-stream", *texts, b"data: [DONE]\n\n")
    stream = client(relays[0]).completions.create(model="m", prompt="hi", stream=True)
    for text in "abc":
        go.release()
        assert next(stream).choices[0].text == text
    go.release()
    assert list(stream) == []
    wait_for(lambda: relays[0].metric("baton_relays") == 0, 20, "it is over")
    # More than is ever put together in memory.
    model.answers["GET", "/v1/files/file-2/content"] = answer("application/octet-stream", *[b"x" * (1 << 20)] * 20)
    go.release(20)
    assert len(client(relays[0]).files.content("file-2").content) == 20 << 20
    # Who goes away ends it.
    model.answers["POST", "/v1/audio/speech"] = answer("audio/mpeg", *[b"y" * (1 << 16)] * 10_000)
    with client(relays[1]).audio.speech.with_streaming_response.create(model="m", voice="alloy", input="hi") as speech:
        go.release(3)
        assert next(speech.iter_bytes(100)) == b"y" * 100
    go.release(10_000)
    assert gone.wait(20), "the model's request is closed"
    wait_for(lambda: relays[1].metric("baton_relays") == 0, 20, "it is over")


def test_embeddings_and_models(relays, model):
    model.answers["POST", "/v1/embeddings"] = 200, {"object": "list", "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}, "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.5]}]}
    model.answers["GET", "/v1/models/m"] = 200, {"id": "m", "object": "model", "created": 1, "owned_by": "x"}
    assert client(relays[0]).embeddings.create(model="m", input="hi", encoding_format="float").data[0].embedding == [0.5, 1.5]
    assert client(relays[0]).models.retrieve("m").id == "m"


def test_headers_that_the_client_reads(relays, model):
    told = {"x-request-id": "req_1", "openai-processing-ms": "7", "x-ratelimit-remaining-tokens": "9", "Set-Cookie": "a=b", "Server": "mine"}
    model.answers["POST", "/v1/chat/completions"] = 200, completion(), told
    raw = client(relays[0]).chat.completions.with_raw_response.create(model="m", messages=MESSAGES, extra_headers={"OpenAI-Beta": "x=v1"})
    assert (raw.request_id, raw.headers["openai-processing-ms"], raw.headers["x-ratelimit-remaining-tokens"]) == ("req_1", "7", "9")
    assert "set-cookie" not in raw.headers and raw.headers.get("server") != "mine"
    _, _, headers, _ = model.requests[-1]
    assert headers["OpenAI-Beta"] == "x=v1" and headers["Authorization"] == f"Bearer {KEY}"


REFUSALS = {
    400: (openai.BadRequestError, "invalid_request_error"), 401: (openai.AuthenticationError, "authentication_error"),
    403: (openai.PermissionDeniedError, "permission_error"), 404: (openai.NotFoundError, "not_found_error"),
    422: (openai.UnprocessableEntityError, "invalid_request_error"), 429: (openai.RateLimitError, "rate_limit_error"),
    500: (openai.InternalServerError, "server_error"), 503: (openai.InternalServerError, "server_error"),
}  # fmt: skip


@pytest.mark.parametrize("status", REFUSALS)
def test_what_the_model_server_refuses(relays, model, session, redis, status):
    kind, type = REFUSALS[status]
    error = {"message": "because", "type": type, "param": "input", "code": "c"}
    for path in ("/v1/responses", "/v1/chat/completions"):
        model.answers["POST", path] = status, {"error": error}, {"retry-after-ms": "1", "x-request-id": "req_2"}
    ours, headers = client(relays[0]), {"Baton-Session": session}
    for call in (
        lambda: ours.responses.create(model="m", input="hi", extra_headers=headers),
        lambda: ours.responses.create(model="m", input="hi", stream=True, extra_headers=headers),
        lambda: ours.responses.create(model="m", input="hi", background=True, extra_headers=headers),
        lambda: ours.chat.completions.create(model="m", messages=MESSAGES, extra_headers=headers),
        lambda: ours.chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_headers=headers),
    ):  # fmt: skip
        with pytest.raises(kind) as refused:
            call()
        assert refused.value.status_code == status and refused.value.body == error and refused.value.request_id == "req_2"
        assert (refused.value.code, refused.value.param, refused.value.type) == ("c", "input", type)
    assert redis.stream(session) == []
    # The client's own repeats keep to what the model server says.
    if status in (429, 503):
        model.requests.clear()
        with pytest.raises(kind):
            openai.OpenAI(base_url=f"{relays[0].url}/v1", api_key="none", max_retries=2).responses.create(model="m", input="hi", extra_headers=headers)
        assert len(model.requests) == 3


def test_a_model_server_that_is_not_there(tmp_path, redis, session):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with gateways(tmp_path, redis, "alone", "--openai", f"http://127.0.0.1:{port}", count=1) as (gateway,):
        for call in (
            lambda: client(gateway).models.list(),
            lambda: client(gateway).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session}),
        ):
            with pytest.raises(openai.InternalServerError) as refused:
                call()
            assert refused.value.status_code == 502 and refused.value.code == "model_unreachable" and refused.value.type == "server_error"
    assert redis.stream(session) == []


def test_batons_token_stays_here(model, tmp_path, redis):
    (tmp_path / "secret").write_bytes(SECRET)
    model.answers["GET", "/v1/models"] = 200, {"object": "list", "data": []}
    jwt = token()
    with gateways(tmp_path, redis, "secret", "--openai", model.url, "--auth-secret-file", tmp_path / "secret", count=1, env={"OPENAI_API_KEY": KEY}) as (gateway,):
        assert gateway.get(f"/v1/models?token={jwt}").status == 200
        assert gateway.get(f"/v1/models?limit=2&%74oken={jwt}&after=x").status == 200
        assert gateway.get("/v1/models?limit=2", Authorization=f"Bearer {jwt}").status == 200
    assert [path for _, path, _, _ in model.requests] == ["/v1/models", "/v1/models?limit=2&after=x", "/v1/models?limit=2"]
    assert all(jwt not in f"{path} {headers}" for _, path, headers, _ in model.requests)


# Connections


def plain(gateway, method, path, headers="", body=""):
    """All that is answered to HTTP/1.0."""
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as one:
        one.sendall(f"{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode())
        told = b"".join(iter(lambda: one.recv(65536), b""))
    head, _, rest = told.partition(b"\r\n\r\n")
    return head.decode().lower(), rest.decode()


def test_streams_are_plain_to_http_1_0(relays, model, session):
    body = json.dumps({"model": "m", "input": "hi", "stream": True})
    head, told = plain(relays[0], "POST", "/v1/responses", f"Baton-Session: {session}\r\n", body)
    assert " 200 " in head.splitlines()[0] and "transfer-encoding" not in head and "connection: close" in head
    events = events_of(told)
    assert told.startswith("event: response.created\ndata: {") and events[-1]["type"] == "response.completed"
    head, again = plain(relays[1], "GET", f"/v1/responses/{events[0]['response']['id']}?stream=true")
    assert again == told and "transfer-encoding" not in head
    # What comes while it is read, too.
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": True})
    head, told = plain(relays[0], "POST", "/v1/chat/completions", f"Baton-Session: {session}\r\n", body)
    assert "transfer-encoding" not in head and told.startswith("data: {") and told.endswith("data: [DONE]\n\n")


def test_who_leaves_before_the_answer_has_begun(relays, model, session, redis):
    """`Baton-Detach: off`, for an answer that is told when it is whole."""
    closed = threading.Event()

    def answer(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(sparse()[0].encode())
        handler.connection.settimeout(60)
        if handler.connection.recv(1) == b"":
            closed.set()

    model.answers["POST", "/v1/responses"] = answer
    body = json.dumps({"model": "m", "input": "hi"})
    with socket.create_connection(("127.0.0.1", relays[0].port), 20) as one:
        one.sendall(
            f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Baton-Detach: off\r\nBaton-Session: {session}\r\n\r\n{body}".encode())  # fmt: skip
        wait_for(lambda: len(redis.stream(session)) >= 2, 20, "it has begun")
    assert closed.wait(20), "the model's request is closed"
    wait_for(lambda: dict(redis.stream(session)[-1][1])[b"event"] == b"cancelled", 20, "it is cancelled")
