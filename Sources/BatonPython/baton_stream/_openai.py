"""What a model's answer comes to: the section of that name in the protocol, over chunks that openai-python or anybody else has read."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

from ._producer import End, Producer

_MESSAGE_LIMIT = 500  # characters
_USAGE_LIMIT = 16 * 1024  # bytes
_NO_REASON = {"", "null", "none", "nil", "undefined", "unfinished", "not_finished"}
_KEEP_ALIVES = {"ping", "pong", "keepalive", "keep-alive", "heartbeat", "ok", "processing"}
_FAILURES = ("abort", "cancel", "fail", "timeout", "timed_out", "insufficient_", "unavailable", "disconnect", "malformed")
_LATE_FAILURES = ("timeout", "unavailable", "failure", "failed")
_OTHER_MEMBERS = {
    "reasoning_content": "reasoning", "reasoning": "reasoning", "reasoning_details": "reasoning", "thinking": "reasoning",
    "thinking_blocks": "reasoning", "tool_calls": "tool_calls", "function_call": "tool_calls", "audio": "audio", "images": "image",
    "image": "image",
}  # fmt: skip


class Completion:
    """A chat completion put together from its chunks: which text it has, and whether it is whole."""

    def __init__(self) -> None:
        self.is_done = False
        """Nothing that comes counts any more."""
        self._reason: str | None = None
        self._usage: Any = None
        self._failure: dict[str, Any] | None = None
        self._is_whole = False
        self._not_shown: list[str] = []
        self._index: Any = None  # the first choice's, the only one that is shown
        self._unknown: list[str] = []  # kinds of chunks in which nothing is known; of interest where there is nothing else
        self._remark: str | None = None  # what was said beside the answer; of interest where nothing else tells why it broke off
        self._half = ""  # of a character whose other half may come with the next delta
        self._text = ""
        self._repeats = False  # messages have so far said all of it again

    def received(self, chunk: Any) -> str:
        """A chunk as a dict, or `[DONE]`. Returns the text in it."""
        if isinstance(chunk, str) and chunk.strip().lower() == "[done]":
            self.is_done = self._is_whole = True
        if self.is_done or not isinstance(chunk, dict):
            return ""
        if chunk.get("error") or "error" in (chunk.get("object"), chunk.get("type")):
            self.failed(_words(chunk))
            return ""
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if choices is None and any(isinstance(chunk.get(name), dict) for name in ("delta", "message")):
            choices = [chunk]
        choices = [choices] if isinstance(choices, dict) else choices if isinstance(choices, list) else []
        kind = str(chunk.get("object") or chunk.get("type") or "unknown")[:64]
        if not choices and chunk.get("choices") is None and chunk and "usage" not in chunk and kind not in _KEEP_ALIVES:
            _add(self._unknown, kind)
        if not choices:
            self._remark = _words(chunk) or self._remark
        return "".join(self._choice(choice) for choice in choices if isinstance(choice, dict))

    def rest(self) -> str:
        """The stream is over: the text that was held back."""
        return "\ufffd" if self._half else ""

    def failed(self, message: str | None, status: int | None = None) -> None:
        """The server refused, or told of an error."""
        self.is_done = True
        message = message or "the model told of an error without words"
        self._failure = {"message": message, "reason": "model_error"} | ({"status": status} if status else {})

    def cut(self, message: str | None) -> None:
        """The answer broke off. It is whole all the same where nothing was missing."""
        if self._reason is None and not self.is_done:
            self.is_done = True
            self._failure = {"reason": "model_cut"} | ({"message": message} if message else {})

    def end(self) -> tuple[End, str]:
        """The stream is over: how the answer ends, and the end's data."""
        told: dict[str, Any] = {"finish_reason": self._reason} if self._reason else {}
        not_shown = self._not_shown + self._unknown if self._index is None else self._not_shown
        told |= {"not_shown": not_shown} if not_shown else {}
        if self._usage is not None and len(json.dumps(self._usage)) <= _USAGE_LIMIT:
            told["usage"] = self._usage
        if self._failure:
            told |= self._failure
        elif self._reason and _is_failure(self._reason):
            told["reason"] = "model_error"
        elif not self._reason and not self._is_whole:
            told |= {"reason": "model_cut"} | ({"message": self._remark} if self._remark else {})
        return "error" if "reason" in told else "end", json.dumps(told, ensure_ascii=False)

    def _choice(self, choice: dict[str, Any]) -> str:
        index = choice.get("index", self._index or 0)
        self._index = index if self._index is None else self._index
        if index != self._index:
            return ""
        if choice.get("error"):
            self.failed(_words(choice["error"]))
        kinds: list[str] = []
        text = ""
        if choice.get("delta"):
            text = self._whole(self._content(choice["delta"], kinds))
            self._repeats = self._repeats or text != ""
        elif choice.get("message"):
            text = self._whole(self._content(choice["message"], kinds))
            if self._text and text.startswith(self._text) and (self._repeats or len(text) > len(self._text)):
                text, self._repeats = text[len(self._text) :], True
        elif choice.get("text"):
            text = self._whole(self._shown(choice["text"], kinds))
            self._repeats = self._repeats or text != ""
        self._text += text
        for kind in kinds:
            _add(self._not_shown, kind)
        if text or kinds:
            self._reason = None
        self._reason = _reason(choice.get("finish_reason")) or _reason(choice.get("finishReason")) or self._reason
        return text

    def _whole(self, text: str) -> str:
        """Halves of a character that meet are one; others are U+FFFD."""
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text.removesuffix(self._half) if self._half else text
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _content(self, message: Any, kinds: list[str]) -> str:
        if not isinstance(message, dict):
            return self._shown(message, kinds)
        audio = message.get("audio")
        said = [message.get("content"), message.get("refusal"), audio.get("transcript") if isinstance(audio, dict) else None]
        text = "".join(self._shown(one, kinds) for one in said)
        kinds += [kind for name, kind in _OTHER_MEMBERS.items() if message.get(name)]
        return text

    def _shown(self, content: Any, kinds: list[str]) -> str:
        """The text of a content: a string, a part, or parts."""
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return "".join(self._shown(part, kinds) for part in content)
        if not isinstance(content, dict):
            return ""
        kind = content.get("type")
        value = next((content[name] for name in ("text", "refusal", "content", "value") if content.get(name) is not None), None)
        if value is not None and (kind is None or kind in ("refusal", "text_delta") or str(kind).endswith("text")):
            return self._shown(value, kinds)
        kinds.append(str(kind or "unknown")[:64])
        return ""


async def openai_to_baton(stream: AsyncIterable[Any] | Iterable[Any], producer: Producer) -> End:
    """Publishes a chat completion that was asked for with `stream=True`, and returns how it ended.

        stream = await client.chat.completions.create(model="gpt-5", messages=messages, stream=True)
        await openai_to_baton(stream, Producer("redis://127.0.0.1:6379/0", "chat-42"))

    It is whole, and ends by `end`, where a finish reason came that means success and nothing but usage after it (or the item `[DONE]`, which
    openai-python keeps to itself); all else ends by `error`: what the stream raises is told there, and raised. When a device asks to stop, the
    stream is closed and the answer ends by `cancelled`.

    stream: chunks of openai-python, or dicts like them. One that is no asynchronous iterator is read within the event loop.
    producer: is opened here, if it is not open.
    """
    completion = Completion()
    try:
        async with producer:
            try:
                async for chunk in _asynchronous(stream):
                    if text := completion.received(as_dict(chunk)):
                        await producer.delta(text)
                    if completion.is_done:
                        break
            except Exception as error:
                told(error, completion)
                await producer.delta(completion.rest())
                await producer.end(*completion.end())
                if producer.ending != "end":
                    raise
            else:
                await producer.delta(completion.rest())
                await producer.end(*completion.end())
    finally:
        await _close(stream)
    return producer.ending or "end"


async def _asynchronous(stream: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    if isinstance(stream, AsyncIterable):
        async for chunk in stream:
            yield chunk
    else:
        for chunk in stream:
            yield chunk


async def _close(stream: Any) -> None:
    """So that the model stops, too."""
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    done = close() if close else None
    if inspect.isawaitable(done):
        await done


def as_dict(chunk: Any) -> Any:
    """A pydantic model's members, as the server sent them."""
    return chunk.model_dump(exclude_unset=True) if hasattr(chunk, "model_dump") else chunk


def told(error: Exception, completion: Completion) -> None:
    """What the stream raised: openai's errors have the server's words; of all others nobody knows who may read theirs."""
    status, body = getattr(error, "status_code", None), getattr(error, "body", None)
    if body is None and status is None:
        completion.cut(type(error).__name__)
    else:
        completion.failed(_words(body) or _words(str(error)), status)


def _reason(value: Any) -> str | None:
    """None for what only looks like one."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    words = _words(value) if isinstance(value, str) else None
    return None if words is None or words.lower() in _NO_REASON else words


def _add(kinds: list[str], kind: str) -> None:
    if kind not in kinds and len(kinds) < 16:
        kinds.append(kind)


def _is_failure(reason: str) -> bool:
    """A finish reason which says that the answer is not what it would have been."""
    reason = reason.lower()
    return reason.startswith(_FAILURES) or "error" in reason or reason.endswith(_LATE_FAILURES)


def _words(value: Any) -> str | None:
    """What a server says of a failure, in whichever of the usual forms."""
    if isinstance(value, str):
        words = " ".join(value.split())
        return words[:_MESSAGE_LIMIT] + "…" if len(words) > _MESSAGE_LIMIT else words or None
    if isinstance(value, list):
        return next((found for one in value if (found := _words(one))), None)
    if isinstance(value, dict):
        names = ("error", "message", "detail", "msg", "error_description", "error_message", "errors", "title", "reason")
        return next((found for name in names if (found := _words(value.get(name)))), None)
    return None
