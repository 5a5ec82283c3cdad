"""llama.cpp itself with a small model: its gaps are filled, and its answers gone on with."""

import threading

import pytest
from support.process import REPOSITORY, Process, free_port, wait_for
from support.servers import Gateway, request
from test_relay import EVENT, client, read

PYTHON = REPOSITORY / ".venv/bin/python"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    port = free_port()
    process = Process(tmp_path_factory.mktemp("llama"), "llama", [PYTHON, REPOSITORY / "Deploy/model.py", str(port)])

    def is_there():
        assert process.alive, process.logged()[-2000:]
        try:
            return request(port, "GET", "/health").status == 200
        except OSError:
            return False

    wait_for(is_there, 120, "the model answers")
    yield f"http://127.0.0.1:{port}/v1"
    process.kill()


@pytest.fixture
def nodes(model, tmp_path, redis):
    started = [Gateway(tmp_path, redis.url, f"llama-{number}", "--openai", model) for number in range(2)]
    yield started
    for one in started:
        one.kill()


ASKED = {"model": "m", "input": "Tell me a story about four runners.", "temperature": 0, "max_output_tokens": 150}


def text_of(events):
    return "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")


def test_the_official_helper_streams_and_each_number_resumes(nodes, session):
    with client(nodes[0]).responses.stream(**ASKED, extra_headers={"Baton-Session": session}) as stream:
        told = list(stream)
        final = stream.get_final_response()
    assert final.output_text and final.usage.output_tokens and told[0].type == "response.created"
    whole = read(nodes[1], final.id)
    for one in whole:
        EVENT.validate_python(one, strict=False)
    assert text_of(whole) == final.output_text
    numbers = [one["sequence_number"] for one in whole]
    assert numbers == sorted(set(numbers))
    for place in range(0, len(numbers), 7):
        assert read(nodes[place % 2], final.id, numbers[place]) == whole[place + 1 :]
    chat = client(nodes[0]).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hello"}], max_tokens=10, stream=True, stream_options={"include_usage": True})
    chunks = list(chat)
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) and chunks[-1].usage.total_tokens
    assert client(nodes[0]).models.list().data


def test_it_is_gone_on_with_by_another_node(nodes, session):
    asked = client(nodes[0]).responses.create(**ASKED, stream=True, extra_headers={"Baton-Session": session})
    seen = []
    for one in asked:
        seen.append(one.to_dict())
        if one.type == "response.output_text.delta":
            break
    id = seen[0]["response"]["id"]
    threading.Thread(target=asked.close, daemon=True).start()
    nodes[0].kill()
    rest = read(nodes[1], id, seen[-1]["sequence_number"])
    assert rest[-1]["type"] in ("response.completed", "response.incomplete"), rest[-1]
    assert text_of(seen) + text_of(rest) == client(nodes[1]).responses.retrieve(id).output_text
