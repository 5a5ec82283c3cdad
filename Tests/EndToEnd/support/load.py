"""Answers that are written all the time, and devices that watch them: whatever happens, every device must show all of it."""

import signal
import subprocess
import threading
import time

from .device import Device
from .process import BATON, wait_for


class Answer:
    """`baton publish` with a line every few milliseconds, until `finish`."""

    def __init__(self, folder, redis_url, session, pause=0.01, record=False):
        self.folder, self.redis_url, self.session, self.pause, self.record = folder, redis_url, session, pause, record
        self.lines, self.producers = [], 0
        # Whether all that was to be written was.
        self.is_whole = True
        self.log = open(f"{folder}/publish-{session}.log", "w+")
        self._begin()

    def _begin(self, name=None):
        self.producers += 1
        self.name = name = name or f"r{self.producers}"
        options = ["--record", f"{self.folder}/publish-{self.session}-{self.producers}.ndjson"] if self.record else []
        self.finishing = threading.Event()
        self.process = subprocess.Popen(
            [BATON, "publish", "--redis", self.redis_url, self.session, "--response", name, *options],
            stdin=subprocess.PIPE, stderr=self.log, text=True)  # fmt: skip
        self.thread = threading.Thread(target=self._write, args=(self.process, self.finishing), daemon=True)
        self.thread.start()

    def _write(self, process, finishing):
        try:
            while not finishing.is_set():
                line = f"{self.session}/{len(self.lines)} \n"
                process.stdin.write(line)
                process.stdin.flush()
                self.lines.append(line)
                finishing.wait(self.pause)
            process.stdin.close()
        except BrokenPipeError:
            pass

    def replace(self, number=signal.SIGKILL, name=None):
        """Sends the producer this signal, and has another one go on; in a response of its own, or, as well, in this one.
        Returns the old one's process."""
        old, self.is_whole = self.process, False
        if number is not None:
            old.send_signal(number)
            self.finishing.set()
            self.thread.join(10)
        self._begin(name)
        return old

    @property
    def text(self):
        return "".join(self.lines)

    def finish(self):
        self.finishing.set()
        self.thread.join(60)
        status = self.process.wait(60)
        self.log.seek(0)
        assert status == 0, f"{self.session}: {status} {self.log.read()}"
        return self

    def kill(self):
        self.finishing.set()
        self.process.kill()


def newest(device):
    """The number of the last whole line that it shows; -1 where there is none."""
    line = device.view.text[-200:].rpartition("\n")[0].rpartition("/")[2].strip()
    return int(line) if line.isdigit() else -1


class Load:
    """Sessions with an answer each, and devices in several places on each of them."""

    def __init__(self, folder, redis_url, urls, sessions, devices=3, **publishing):
        self.answers = [Answer(folder, redis_url, session, **publishing) for session in sessions]
        self.devices = []
        for number, session in enumerate(sessions):
            for turn in range(devices):
                query = [{"offset": "0"}, {"offset": "0", "rollup": "off"}, {"last": 1}][turn % 3]
                order = [*urls[(number + turn) % len(urls) :], *urls[: (number + turn) % len(urls)]]
                self.devices.append(Device(order, session, follow=True, **query))

    def grown(self, lines=20, seconds=30):
        """Waits until every device has been shown so much more than now. Returns after how long."""
        began = time.monotonic()
        marks = {answer.session: len(answer.lines) + lines for answer in self.answers}
        wait_for(lambda: all(len(answer.lines) > marks[answer.session] for answer in self.answers), seconds, "the producers write")
        for device in self.devices:
            mark = marks[device.session]
            device.until(lambda device: newest(device) >= mark, seconds, f"line {mark} at {device.urls[0]}")
        return time.monotonic() - began

    def judge(self):
        """Ends the answers: each device must show all of its session's, once, from where it began."""
        for answer in self.answers:
            answer.finish()
        for device in self.devices:
            text = next(answer.text for answer in self.answers if answer.session == device.session)
            device.until(lambda device: device.view.text.endswith(text[-40:]) and device.view.live, 30, "the end")
            shown = device.view.text
            if not next(answer.is_whole for answer in self.answers if answer.session == device.session):
                continue
            assert text.endswith(shown) and ("last" in device.query or shown == text), (
                f"{device.session}: {len(shown)} of {len(text)} characters, resets {device.view.resets}")  # fmt: skip

    @property
    def resets(self):
        return [reason for device in self.devices for reason in device.view.resets]

    def close(self):
        for answer in self.answers:
            answer.kill()
        for device in self.devices:
            device.stopped = True
            device.socket.socket.close()
