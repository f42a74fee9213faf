"""Commands of README and docs, run as they stand, on other ports and in other places, beside a cluster."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCUMENTED = {"dns": 5300, "http": 8080, "quic": 7300}


def is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def free_range() -> int:
    """The first of four free ports in a row, below those the kernel gives away itself."""
    starts = (random.randrange(20_000, 32_000, 4) for _ in range(1_000))
    return next(start for start in starts if all(is_free(start + i) for i in range(4)))


def own_ports() -> dict[str, int]:
    return {use: free_range() for use in DOCUMENTED}


@contextmanager
def running_cluster(directory: Path, ports: dict[str, int]) -> Iterator[Path]:
    """`make cluster`, more quickly: in that directory the documented commands are run."""
    flags = [word for use, port in ports.items() for word in (f"--{use}-port", str(port))]
    log = directory / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aspen.cli.main", "dev", "--nodes", "3", "--profile", "lan", *flags],
            cwd=directory,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while "Aspen is ready" not in log.read_text("utf-8"):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        yield directory
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text("utf-8")


def exchanged(script: str, ports: dict[str, int]) -> str:
    """A block of the README with its ports exchanged for ours."""
    for use, first in DOCUMENTED.items():
        for i in range(4):
            script = re.sub(rf"\b{first + i}\b", str(ports[use] + i), script)
    return script.replace("source .venv/bin/activate\n", "")


def environment(ports: dict[str, int]) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ASPEN_ADDR": f"http://127.0.0.1:{ports['http']}",
        "ASPEN_COOKIE": "a secret of the README's own",
    }


def run(script: str, directory: Path, ports: dict[str, int]) -> str:
    """Run a block of the README; returns what it printed."""
    script = exchanged(script, ports)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=environment(ports),
        capture_output=True,
        text=True,
        timeout=240,  # each command is a process of its own
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running_node(
    command: str, directory: Path, ports: dict[str, int], until: str, cookie: str
) -> Iterator[Path]:
    """An `aspen node run …` or `cluster join` of the README; yields its log once `until` stands in it."""
    log = directory / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aspen.cli.main", *shlex.split(command.replace("\\\n", " "))[1:]],
            cwd=directory,
            env=environment(ports) | {"ASPEN_COOKIE": cookie},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while until not in log.read_text("utf-8"):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        yield log
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text("utf-8")
