"""Thousands of devices in one process: a minimal WebSocket reader on asyncio that can also refuse to read."""

import asyncio
import contextlib
import json
import socket
import struct
import time

from .checker import View, judge, place

HANDSHAKE = (
    "GET /v1/sessions/{session}?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: baton.v1\r\n\r\n"
)


class Member:
    """One device of a crowd. Nothing is read from its socket but by `read`."""

    def __init__(self, port, session, query="", receive_buffer=None):
        self.port, self.session, self.query, self.receive_buffer = port, session, query, receive_buffer
        self.view, self.kinds, self.code = View(), [], None

    async def open(self):
        raw = socket.socket()
        if self.receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        self.reader, self.writer = await asyncio.open_connection(sock=raw, limit=16 * 1024)
        if self.receive_buffer:
            self.writer.transport.pause_reading()
        self.writer.write(HANDSHAKE.format(session=self.session, query=self.query, host=f"127.0.0.1:{self.port}").encode())
        if not self.receive_buffer:
            await self._handshake()
        return self

    async def _handshake(self):
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in answer.partition(b"\r\n")[0], answer

    async def resume(self):
        """Begins to read, for one that was opened not to."""
        self.writer.transport.resume_reading()
        await self._handshake()

    async def read(self, condition, seconds=60):
        """Reads until `condition(self)` holds; fails at the deadline or when the connection ends."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            async with asyncio.timeout(max(0.001, deadline - time.monotonic())):
                if not await self._frame():
                    break
        assert condition(self), f"{self.session}: closed with {self.code} at {self.view.offset}"

    async def _frame(self):
        first, length = await self.reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        payload = await self.reader.readexactly(length)
        if first & 0x0F == 8:
            self.code = struct.unpack(">H", payload[:2])[0]
            return False
        if first & 0x0F == 1:
            frame = json.loads(payload)
            self.kinds.append(frame.get("type"))
            self.view.feed(frame)
        elif first & 0x0F == 9:
            self.writer.write(bytes([0x8A, 0x80 | length, 0, 0, 0, 0]) + payload)
        return True

    async def close(self):
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def judge(self, stream, **options):
        return judge(self.view, stream, **options)


def at(id):
    """The condition of having come to the entry `id`."""
    return lambda member: member.view.offset is not None and place(member.view.offset) >= place(id)


def live(member):
    return member.view.live


async def open_all(members, at_once=100):
    """Opens them, a hundred at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(member):
        async with gate:
            await member.open()

    await asyncio.gather(*map(one, members))
    return members


async def read_all(members, condition, seconds=90):
    await asyncio.gather(*(member.read(condition, seconds) for member in members))
