"""A producer in Python over Baton's atomic step (the article AppendScript).

    producer = Producer(connect("redis://127.0.0.1:6379/0"), "chat-42", "r1")
    producer.open()
    producer.deltas("Hel", "lo")
    producer.end(data='{"finish_reason":"stop"}')

A lost reply is answered by the same call again. `rewind` and `lost` are answered by appending again what the stream
no longer has; `Fenced`, `Deleted` and `Ended` are final.
"""

import pathlib
import secrets
import urllib.parse

import redis
import redis.cluster
import redis.sentinel

SCRIPT = (pathlib.Path(__file__).parents[2] / "Sources/BatonStore/Append/append.lua").read_text()
DAY = 24 * 60 * 60 * 1000
ENDS = ("end", "error", "cancelled")


def connect(url):
    """A client of the Redis that one of Baton's addresses leads to: `redis://`, `rediss://`, `unix://`,
    `redis+sentinel://user:password@a:26379,b,c/master/0`, `redis+cluster://user:password@a:6379,b,c`."""
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[2]
    place, _, query = rest.partition("?")
    words = {"cacert": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
    query = {words.get(name, name): value for name, value in urllib.parse.parse_qsl(query)}
    if kind not in ("sentinel", "cluster"):
        return redis.from_url(f"{scheme}://{place}?{urllib.parse.urlencode(query)}")
    places, _, path = place.partition("/")
    login, _, hosts = places.rpartition("@")
    user, colon, password = login.partition(":")
    options = {"ssl": scheme.startswith("rediss"), "username": urllib.parse.unquote(user) if colon else None,
               "password": urllib.parse.unquote(password if colon else user) or None}  # fmt: skip
    tls = {name: value for name, value in query.items() if name in words.values()}
    standard = 26379 if kind == "sentinel" else 6379
    addresses = [(host.partition(":")[0], int(host.partition(":")[2] or standard)) for host in hosts.split(",")]
    if kind == "cluster":
        nodes = [redis.cluster.ClusterNode(*address) for address in addresses]
        return redis.cluster.RedisCluster(startup_nodes=nodes, **options, **tls)
    master, _, database = path.partition("/")
    sentinels = redis.sentinel.Sentinel(addresses, sentinel_kwargs={"ssl": options["ssl"], **tls}, **options, **tls)
    return sentinels.master_for(urllib.parse.unquote(master), db=int(database or 0))


class Refused(Exception):
    pass


class Fenced(Refused):
    pass


class Deleted(Refused):
    pass


class Ended(Refused):
    pass


class Step:
    """The script's five operations for one session; replies are lists of str."""

    def __init__(self, client, session, prefix="baton:", ttl=DAY, cap=100_000, guest=False):
        key = f"{prefix}{{{session}}}"
        self.keys = [key, f"{key}:producers", f"{key}:inbox", f"{key}:keys"]
        self.script = client.register_script(SCRIPT)  # EVALSHA, and SCRIPT LOAD after NOSCRIPT
        self.limits = [f"?{ttl}" if guest else ttl, cap]  # a guest (a gateway) leaves the session's retention alone

    def __call__(self, operation, *arguments):
        reply = self.script(keys=self.keys, args=[operation, *self.limits, *arguments])
        return [part.decode() if isinstance(part, bytes) else part for part in reply]

    def open(self, response, token, first=1, items=(), epoch=0, generation=""):
        return self("open", response, epoch, generation, token, first, *flat(items))

    def append(self, response, token, first, items=(), epoch=1, generation=0):
        return self("append", response, epoch, generation, token, first, *flat(items))

    def expire(self, response, epoch, token):
        return self("expire", response, epoch, token)

    def put(self, where, fields, scope="", device="", subject="", key=""):
        return self("put", where, scope, device, subject, key, len(fields) // 2, *fields)

    def delete(self):
        return self("delete")


def flat(items):
    for kind, *values in items:
        yield kind
        if kind == "deltas":
            yield len(values)
        elif kind != "gap":
            yield len(values) // 2
        yield from values


class Producer:
    def __init__(self, client, session, response, **limits):
        self.step = Step(client, session, **limits)
        self.response = response
        self.writer = secrets.token_hex(8)
        self.lease = 0
        self.epoch = 0
        self.generation = ""
        self.items = []  # [number of the first delta, item], from the first to the end
        self.n = 0

    def open(self, *fields):
        self.items.append((1, ("start", *fields)))
        self._send([self.items[-1]], "open")

    def deltas(self, *texts):
        self._add(("deltas", *texts), len(texts))

    def event(self, *fields):
        self._add(("event", *fields), 1)

    def end(self, kind="end", **fields):
        self._add((kind, *(part for pair in fields.items() for part in pair)), 0)

    def renew(self):
        """Every 5 s: a token that stands still for 15 s is a producer that died."""
        self.lease += 1
        self._send([])

    def _add(self, item, count):
        self.items.append((self.n + 1, item))
        self.n += count
        self._send(self.items[-1:])

    def _send(self, items, operation="append"):
        while True:
            first = items[0][0] if items else self.n + 1
            token = f"{self.writer}.{self.lease}"
            call = self.step.open if operation == "open" else self.step.append
            status, *rest = call(
                self.response, token, first, [item for _, item in items], self.epoch, self.generation
            )
            if status == "ok":
                self.epoch, self.generation = int(rest[0]), int(rest[3])
                if rest[2] != "open" or self.items[-1][1][0] not in ENDS:
                    return
                operation, items = "append", self.items[-1:]  # Redis lost the end
            if status == "rewind":
                have = int(rest[0])
                items = [(at, item) for at, item in self.items if at + max(size(item), 1) > have + 1]
            elif status == "lost":
                operation, items = "open", self.items
            else:
                raise {"fenced": Fenced, "deleted": Deleted, "ended": Ended}.get(status, Refused)(*rest)


def size(item):
    return len(item) - 1 if item[0] == "deltas" else int(item[0] == "event")
