"""Addresses of Redis, and the atomic step (the article AppendScript)."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import math
import re
import time
import urllib.parse
import weakref
from collections.abc import Awaitable
from typing import Any

import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.exceptions

SCRIPT = importlib.resources.files(__package__).joinpath("append.lua").read_text()

_FINAL_WORDS = re.compile(
    r"\b(NOAUTH|WRONGPASS|DENIED|NOPROTO|NOPERM|CROSSSLOT|MOVED|ACL failure|unknown command|can't run this command)\b")  # fmt: skip

_asked: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()  # when Sentinels were asked last

FAILURES = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError, TimeoutError)
"""What a call of Redis may raise."""


def connect(url: str) -> Any:
    """A client (of `redis.asyncio`) of the Redis that one of Baton's addresses leads to: `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://user:password@a:26379,b,c/master/0`, `redis+cluster://user:password@a:6379,b,c`.

    Raises `ValueError` for what is none.
    """
    scheme, _, rest = url.partition("://")
    transport, _, kind = scheme.partition("+")
    if transport not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster") or kind and transport == "unix":
        raise ValueError("an address of Redis looks like redis://host:6379/0, redis+sentinel://a,b,c/master/0 or redis+cluster://a,b,c")
    place, _, query = rest.partition("?")
    words = {"cacert": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
    options: dict[str, Any] = {words.get(name, name): value for name, value in urllib.parse.parse_qsl(query)}
    if kind == "":
        # We repeat calls ourselves, and know when to give up.
        retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.asyncio.from_url(f"{scheme}://{place}?{urllib.parse.urlencode(options)}", retry=retry, protocol=2)
    places, _, path = place.partition("/")
    login, _, hosts = places.rpartition("@")
    user, colon, password = login.partition(":")
    options |= {"ssl": True} if transport == "rediss" else {}
    options["username"] = urllib.parse.unquote(user) if colon and user else None
    options["password"] = urllib.parse.unquote(password if colon else user) or None
    standard = 26379 if kind == "sentinel" else 6379
    parts = [urllib.parse.urlsplit(f"//{host}") for host in hosts.split(",")]
    addresses = [(part.hostname or "localhost", part.port or standard) for part in parts]
    if kind == "cluster":
        nodes = [redis.asyncio.cluster.ClusterNode(*address) for address in addresses]
        return redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, protocol=2, **options)
    master, _, database = path.partition("/")
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    sentinels: Any = _Sentinels(addresses, sentinel_kwargs=tls, protocol=2, **options)
    return sentinels.master_for(urllib.parse.unquote(master), db=int(database or 0))


class _Sentinels(redis.asyncio.sentinel.Sentinel):
    """Sentinels of which some are listed. While none of these names a master, those are asked that they knew, as gateways do it."""

    _MOST = 16  # that are asked in their place
    _PAUSE = 10.0  # seconds between two questions whom they know

    def __init__(self, listed: list[tuple[str, int]], **options: Any) -> None:
        super().__init__(listed, **options)  # type: ignore[no-untyped-call]
        self._listed, self._options = listed, options
        self._deputies: Any = None
        self._known: list[tuple[str, int]] = []
        self._learned = -math.inf

    async def discover_master(self, service_name: str) -> Any:
        try:
            found = await super().discover_master(service_name)
        except redis.asyncio.sentinel.MasterNotFoundError:
            if self._deputies is None:
                raise
            found = await self._deputies.discover_master(service_name)
            await self._learn(service_name, self._deputies.sentinels[0], self._known)
            return found
        await self._learn(service_name, self.sentinels[0], [])
        return found

    async def _learn(self, service_name: str, told_by: Any, known: list[tuple[str, int]]) -> None:
        """Who may not be asked knows nobody."""
        if time.monotonic() - self._learned < self._PAUSE:
            return
        self._learned = time.monotonic()
        try:
            others = await told_by.sentinel_sentinels(service_name)
        except FAILURES:
            return
        places = [(str(other["ip"]), int(other["port"])) for other in others]
        known = [*known, *(place for place in places if place not in known and place not in self._listed)][: self._MOST]
        if known != self._known:
            self._known = known
            # Each is connected to when it is asked, and not before.
            self._deputies = redis.asyncio.sentinel.Sentinel(known, **self._options) if known else None  # type: ignore[no-untyped-call]


class Step:
    """The script's `open` and `append` for one session; replies are lists of str."""

    def __init__(self, client: Any, session: str, prefix: str = "baton:", ttl: int = 86_400_000, cap: int = 100_000, guest: bool = False) -> None:
        key = f"{prefix}{{{session}}}"
        self.client = client
        self.keys = [key, f"{key}:producers", f"{key}:inbox", f"{key}:keys"]
        self.limits = [f"?{ttl}" if guest else ttl, cap]  # a guest (a gateway) leaves the session's retention alone
        self._sha = hashlib.sha1(SCRIPT.encode()).hexdigest()

    async def __call__(self, operation: str, *arguments: Any) -> list[str]:
        """The same call once more, after whatever error, appends nothing twice: so redis-py may repeat it, too."""
        call = [len(self.keys), *self.keys, operation, *self.limits, *arguments]
        try:
            reply = await _answer(self.client.evalsha(self._sha, *call))
        except redis.exceptions.NoScriptError:
            reply = await _answer(self.client.eval(SCRIPT, *call))
        return [text(part) for part in reply]

    @property
    def may_fail_over(self) -> bool:
        """Another master may take over, without what it was not sent in time."""
        return self._sentinels is not None or isinstance(self.client, redis.asyncio.cluster.RedisCluster)

    @property
    def _sentinels(self) -> Any:
        pool = getattr(self.client, "connection_pool", None)
        return pool if isinstance(pool, redis.asyncio.sentinel.SentinelConnectionPool) else None

    async def master(self, at_once: bool = False) -> Any:
        """Whom Sentinels name, if there are any: redis-py asks them only for a new connection, and a former master takes what it then loses.
        They are asked once a second for all that share a client, unless it is to be known at once.
        """
        if (pool := self._sentinels) is None:
            return None
        now = time.monotonic()
        if at_once or now - _asked.get(pool, -math.inf) >= 1:
            _asked[pool] = now
            await _answer(pool.get_master_address())
        return pool.master_address

    async def replicated(self, operation: str, *arguments: Any) -> tuple[list[str], bool]:
        """The same, and whether a replica has all that was written before. False where nothing tells: in a cluster, or without the right
        to `WAIT`.
        """
        if isinstance(self.client, redis.asyncio.cluster.RedisCluster):
            return await self(operation, *arguments), False
        pipe = self.client.pipeline(transaction=False)  # one connection
        pipe.eval(SCRIPT, len(self.keys), *self.keys, operation, *self.limits, *arguments)
        pipe.pexpire(self.keys[0], self.limits[0])  # `WAIT` is about what this connection has written
        pipe.wait(1, 100)
        reply, _, replicas = await _answer(pipe.execute(raise_on_error=False))
        if isinstance(reply, Exception):
            raise reply
        return [text(part) for part in reply], isinstance(replicas, int) and replicas > 0

    async def inbox(self, after: str, count: int) -> list[tuple[str, dict[str, str]]]:
        """What came after an id, the oldest first. Never blocks: no client's time-out for reading (5 s in redis-py) gets in its way."""
        entries = await _answer(self.client.xrange(self.keys[2], f"({after}", "+", count=count))
        return [(text(id), {text(name): text(value) for name, value in fields.items()}) for id, fields in entries]


async def _answer(reply: Awaitable[Any]) -> Any:
    """A cancellation that comes together with the reply counts: Python 3.11's `wait_for`, which redis-py uses, loses it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await reply
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def text(value: Any) -> str:
    """Of a reply, whether the client decodes or not."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def is_final(error: Exception) -> bool:
    """Only the operator can mend it: credentials, rights, address. All else may pass."""
    if isinstance(error, (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and _FINAL_WORDS.search(str(error)) is not None
