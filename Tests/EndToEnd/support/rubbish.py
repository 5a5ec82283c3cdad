"""Between a gateway and its Redis: answers some commands by what no Redis says."""

import contextlib
import socket
import threading


def bulk(value):
    value = value if isinstance(value, bytes) else value.encode()
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(*items):
    return b"*%d\r\n" % len(items) + b"".join(item if isinstance(item, bytes) else bulk(item) for item in items)


ID = "18446744073709551615-18446744073709551615"
KEY = "baton:{x}"


def entry(id="1-1", *fields):
    return array(id, array(*(fields or ("data", "x"))))


# Of other types.
TYPES = [
    b":7\r\n", b":-9223372036854775808\r\n", b"+OK\r\n", bulk("abc"), bulk(""), b"*0\r\n", b"*-1\r\n", b"$-1\r\n", array(array(array())), array(b":1\r\n"),
    array(b"$-1\r\n", b"*-1\r\n", b":0\r\n"), array("a"), array("a", "b"), array("a", "b", "c"), b"-ERR \r\n", b"-\r\n", b"+\r\n", b"-WRONGTYPE x\r\n",
    b"-MOVED 99999 [::1]:70000\r\n", b"-ASK x\r\n", b"-NOSCRIPT\r\n", b"-LOADING x\r\n", b"-ERR " + b"\x1b[31m" * 20_000 + b"\r\n",
]  # fmt: skip
# RESP3, which nobody asked for.
RESP3 = [b"_\r\n", b"#t\r\n", b",nan\r\n", b",1e999\r\n", b",-inf\r\n", b"(" + b"9" * 5000 + b"\r\n", b"%1\r\n+a\r\n:1\r\n", b"~2\r\n+a\r\n+a\r\n",
         b">2\r\n+invalidate\r\n*0\r\n", b"|1\r\n+a\r\n+b\r\n+OK\r\n", b"=7\r\ntxt:abc\r\n", b"!5\r\nERR x\r\n", b"*?\r\n", b"$?\r\n;0\r\n"]  # fmt: skip
# Lengths that can't be, nesting, and what is cut: the connection stands still, or ends, behind them.
BROKEN = [
    b"$9999999999999\r\n", b"$9223372036854775807\r\n", b"*2147483647\r\n", b"*4294967296\r\n", b"*99999999999999999999\r\n", b"$-2\r\n", b"*-2\r\n", b"$+3\r\nabc\r\n",
    b":\r\n", b":+\r\n", b":99999999999999999999999\r\n", b":nan\r\n", b"$nan\r\n", b"*1\r\n" * 2000 + b":1\r\n", b"*1\r\n" * 200_000, b"*1000000\r\n" * 8,
    b"*2\r\n$3\r\nab", b"hello\r\n", b"\r\n", b"\0\r\n", b"$3\r\nabcde\r\n", b"$3\nabc\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*3\r\n:1\r\n", b"+" + b"x" * 300_000,
]  # fmt: skip
# Entries that are none, and pages of other streams.
ENTRIES = [
    one
    for page in [
        array(entry("x-y")), array(entry("")), array(entry("1")), array(entry("-1--1")), array(entry(ID)), array(entry("0-0")), array(entry("1-1", "odd")),
        array(array("1-1", b"*-1\r\n")), array(array("1-1", b"$-1\r\n")), array(array("1-1", b":5\r\n")), array(array("1-1")), array(array()), array(b":1\r\n"),
        array(array("1-1", array(b":1\r\n", b":2\r\n"))), array(array("1-1", array(array(), array()))), array(entry("5-1"), entry("4-1"), entry("3-1")),
        array(*[entry("7-7")] * 3000), array(entry("1-1", *["f", "v"] * 5000)), array(entry("1-1", "n", "9" * 400, "joined", "9" * 400, "data", "\ud83d".encode("utf-8", "surrogatepass"))),
        array(array(b"*0\r\n", array("data", "x"))), array(entry("99999999999999999999-1")),
    ]
    for one in (page, array(array(KEY, page)), array(array(page)), array(array(KEY, page), array(KEY, page)))
]  # fmt: skip
RUBBISH = TYPES + RESP3 + ENTRIES + BROKEN


class Rubbish:
    """Passes everything on to the Redis at `port`; while `of` names commands, their answers are RUBBISH, one after the other.

    Answers are counted in `said`; those of one connection end with the first that is BROKEN, which is closed but for one in five."""

    def __init__(self, port):
        self.target, self.of, self.said, self.lock = port, set(), 0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self):
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _next(self):
        with self.lock:
            self.said += 1
            return self.said, RUBBISH[self.said % len(RUBBISH)]

    def _serve(self, client):
        server = socket.create_connection(("127.0.0.1", self.target))
        try:
            asked, told = client.makefile("rb"), server.makefile("rb")
            while command := read(asked):
                server.sendall(command)
                words = command.split(b"\r\n")[2::2]
                name = words[0].decode(errors="replace").upper()
                if name == "SUBSCRIBE":
                    return pump(server, told, client)
                answer = read(told)
                if name in self.of:
                    number, answer = self._next()
                    client.sendall(answer)
                    if answer in BROKEN:
                        # Else it lasts until the gateway has had enough of it.
                        return None if number % 5 else read(asked)
                else:
                    client.sendall(answer)
        except (OSError, ValueError):
            pass
        finally:
            for one in (client, server):
                one.close()


def pump(server, told, client):
    with contextlib.suppress(OSError):
        while answer := read(told):
            client.sendall(answer)
    return None


def read(source):
    """One value, as it is on the wire; empty at the end."""
    line = source.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"$" and int(rest) >= 0:
        return line + source.read(int(rest) + 2)
    if kind == b"*":
        return line + b"".join(read(source) for _ in range(int(rest)))
    return line
