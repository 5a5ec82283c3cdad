"""A child process with a log, ended by its own id and never left behind."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("BATON_BUILD", REPOSITORY / ".build/release"))
BATON = str(BUILD / "baton")

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL)


def wait_for(condition, seconds=15.0, what="the condition"):
    """Returns the first true value of `condition`, asked again and again; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    def __init__(self, folder, name, arguments, env=None, stdin=subprocess.DEVNULL, stdout=None, stderr=None):
        self.name = name
        self.log = pathlib.Path(folder) / f"{name}.log"
        self._log = self.log.open("ab")
        self._begins = self.log.stat().st_size
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=stdin,
            stdout=stdout if stdout is not None else self._log,
            stderr=stderr if stderr is not None else self._log,
            env={**os.environ, **(env or {})},
            preexec_fn=_die_with_parent,
        )

    @property
    def pid(self):
        return self.process.pid

    @property
    def alive(self):
        return self.process.poll() is None

    def logged(self):
        """What this process has said; another one of its name may have written to the same file before."""
        return self.log.read_bytes()[self._begins :].decode(errors="replace")

    def signal(self, number):
        if self.alive:
            self.process.send_signal(number)

    def kill(self):
        """SIGKILL, and it is gone when this returns."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def wait(self, seconds=30):
        return self.process.wait(seconds)

    def rss(self):
        """Resident bytes."""
        with open(f"/proc/{self.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))
