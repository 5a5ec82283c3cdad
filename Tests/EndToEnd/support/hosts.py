"""Machines of the tests' own: network namespaces behind a bridge, that can be cut off from each other, but not from the test."""

import os
import random
import subprocess

from .versions import SERVER


def ip(*words, check=True):
    return subprocess.run(["ip", *map(str, words)], check=check, capture_output=True, text=True)


class Hosts:
    """`count` hosts. `server` is a `redis-server` that starts on the host whose address its `--bind` gives. Needs root."""

    def __init__(self, folder, count):
        assert os.geteuid() == 0, "network namespaces are made by root: run this as root, or with sudo"
        self.bridge, net = self._bridge()
        self.names = [f"{self.bridge}-{number}" for number in range(count)]
        self.addresses = [f"{net}.{number + 2}" for number in range(count)]
        for number, (name, address) in enumerate(zip(self.names, self.addresses)):
            ip("netns", "add", name)
            ip("link", "add", f"{self.bridge}v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{self.bridge}v{number}", "master", self.bridge, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        self.server = f"{folder}/redis-server-on-its-host"
        cases = "".join(
            f" {address}) exec ip netns exec {name} {SERVER} \"$@\" ;;" for name, address in zip(self.names, self.addresses))
        with open(self.server, "w", opener=lambda path, flags: os.open(path, flags, 0o755)) as script:
            script.write(f"""#!/bin/bash
for word; do
  [ "$before" != --bind ] || case $word in {cases} esac
  before=$word
done
exec {SERVER} "$@"
""")

    def _bridge(self):
        while True:
            number = random.randrange(1, 255)
            name = f"bt{number}"
            if ip("link", "add", name, "type", "bridge", check=False).returncode == 0:
                ip("address", "add", f"10.77.{number}.1/24", "dev", name)
                ip("link", "set", name, "up")
                return name, f"10.77.{number}"

    def cut(self, host):
        """What this host sends to the others is lost from now on: they are out of each other's reach."""
        for other in self.addresses:
            if other != self.addresses[host]:
                ip("-n", self.names[host], "route", "add", "blackhole", other)

    def heal(self, host):
        for other in self.addresses:
            if other != self.addresses[host]:
                ip("-n", self.names[host], "route", "del", "blackhole", other, check=False)

    def close(self):
        for name in self.names:
            ip("netns", "del", name)
        ip("link", "del", self.bridge)
