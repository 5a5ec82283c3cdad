"""Fixtures. `redis` and `gateway` are shared by all tests of a run; `folder`, `new_redis` and `new_gateway` are a test's own."""

import resource
import sys
import uuid

import pytest
from support.device import Device
from support.process import BATON, REPOSITORY, Process
from support.servers import Gateway, HAProxy, Nginx, Redis
from support.tokens import SECRET

sys.path.insert(0, str(REPOSITORY / "Sources/BatonPython"))


def pytest_configure():
    # Thousands of devices: both the tests and, by inheritance, the gateways need the descriptors.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


@pytest.fixture(scope="session")
def baton():
    return BATON


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def secret(shared):
    """The file of the key that `support.tokens` signs with."""
    path = shared / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture(scope="session")
def redis(shared):
    server = Redis(shared)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def gateway(shared, redis):
    try:
        server = Gateway(shared, redis.url, "gw-1")
    except AssertionError as failure:
        pytest.exit(f"no gateway, no tests: {failure}", 1)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def gateway2(shared, redis):
    server = Gateway(shared, redis.url, "gw-2")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def polling(shared, redis):
    server = Gateway(shared, redis.url, "gw-poll", "--wakeup", "poll")
    yield server
    server.kill()


@pytest.fixture(params=["tracking", "poll"])
def node(request):
    """The shared gateway, then one that polls."""
    return request.getfixturevalue("gateway" if request.param == "tracking" else "polling")


@pytest.fixture
def session():
    """A session's name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def started():
    """What is put in here is killed after the test."""
    processes = []
    yield processes
    for process in reversed(processes):
        process.kill()


@pytest.fixture
def new_redis(tmp_path, started):
    def new(name="redis", *options, **more):
        started.append(Redis(tmp_path, name, *options, **more))
        return started[-1]

    return new


@pytest.fixture
def new_gateway(tmp_path, started):
    def new(redis_url, node="gw-1", *options, **named):
        started.append(Gateway(tmp_path, redis_url, node, *options, **named))
        return started[-1]

    return new


@pytest.fixture
def new_proxy(tmp_path, started):
    def new(kind, gateways, **options):
        started.append({"haproxy": HAProxy, "nginx": Nginx}[kind](tmp_path, gateways, **options))
        return started[-1]

    return new


@pytest.fixture
def attach():
    """`attach(gateway, session, offset=…)`: a Device that is closed after the test."""
    devices = []

    def new(where, session, **options):
        urls = [one if isinstance(one, str) else one.url for one in (where if isinstance(where, list) else [where])]
        devices.append(Device(urls, session, **options))
        return devices[-1]

    yield new
    for device in devices:
        device.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the ends of the logs of the servers that it used."""
    report = yield
    if report.failed and call.when == "call":
        servers = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, (Gateway, Redis))]
        started = item.funcargs.get("started", [])
        processes = [one if isinstance(one, Process) else getattr(one, "process", None) for one in [*servers, *started]]
        for process in filter(None, processes):
            report.sections.append((f"log of {process.name}", process.logged()[-3000:]))
    return report
