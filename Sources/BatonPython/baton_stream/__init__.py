"""Baton in Python: sessions that outlive every connection.

A device, over any number of lost connections and gateways:

    async for event in baton_stream.attach("http://127.0.0.1:8080", "chat-42"):
        if isinstance(event, baton_stream.Entry) and event.event == "token":
            print(event.text, end="", flush=True)

A producer (`pip install 'baton-stream[redis]'`):

    async with baton_stream.Producer("redis://127.0.0.1:6379/0", "chat-42") as answer:
        async for token in model:
            await answer.delta(token)

`baton_stream.sync` has both without `async`.
"""

from typing import TYPE_CHECKING, Any

from ._client import Attachment, FileStore, Options, Store, attach
from ._errors import (
    BatonError, Cancelled, Deleted, Ended, Fenced, ProducerError, Refused, Rejected, SubmissionError, TooLarge, Unavailable,
)  # fmt: skip
from ._events import Attached, Behind, Draining, Entry, Error, Event, Expiring, Live, Reset, Skipped, Stalled, State
from ._transcript import Response, Snapshot, Transcript

if TYPE_CHECKING:
    from ._openai import openai_to_baton
    from ._producer import Message, Producer, ProducerOptions, connect

__version__ = "0.9.0"

_OF_THE_PRODUCER = {
    "Message": "_producer", "Producer": "_producer", "ProducerOptions": "_producer", "connect": "_producer", "openai_to_baton": "_openai",
}  # fmt: skip

__all__ = [
    "Attached", "Attachment", "BatonError", "Behind", "Cancelled", "Deleted", "Draining", "Ended", "Entry", "Error", "Event", "Expiring",
    "Fenced", "FileStore", "Live", "Message", "Options", "Producer", "ProducerError", "ProducerOptions", "Refused", "Rejected", "Reset",
    "Response", "Skipped", "Snapshot", "Stalled", "State", "Store", "SubmissionError", "TooLarge", "Transcript", "Unavailable", "attach", "connect",
    "openai_to_baton",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The producer's part needs `redis`, a device does not."""
    if name not in _OF_THE_PRODUCER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_OF_THE_PRODUCER[name]}", __name__), name)
