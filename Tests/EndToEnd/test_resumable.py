"""baton-resumable.js in Node, against gateways: the cases are those of resumable.test.mjs."""

import os
import pathlib
import subprocess

from support.servers import Gateway


def test_the_cases(redis, tmp_path):
    gateways = [Gateway(tmp_path, redis.url, f"resumable-{number}") for number in range(3)]
    told = {"GATEWAYS": " ".join(one.url for one in gateways[:2]), "MORTAL": gateways[2].url, "MORTAL_PID": str(gateways[2].process.pid)}
    try:
        command = ["node", "--test", "--test-reporter=spec", "--test-timeout=90000", pathlib.Path(__file__).with_name("resumable.test.mjs")]
        done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        for gateway in gateways:
            gateway.kill()
