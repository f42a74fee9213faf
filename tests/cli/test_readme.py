"""The README's five minutes, run as they stand (on other ports): what is documented works."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCUMENTED = {"dns": 5300, "http": 8080, "quic": 7300}


def blocks(heading: str) -> list[str]:
    """The shell blocks under a heading of the README."""
    section = (ROOT / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)


def is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def free_range() -> int:
    """The first of three free ports in a row, below those the kernel gives away itself."""
    starts = (random.randrange(20_000, 32_000, 4) for _ in range(1_000))
    return next(start for start in starts if all(is_free(start + i) for i in range(3)))


@pytest.fixture
def ports() -> dict[str, int]:
    return {use: free_range() for use in DOCUMENTED}


@pytest.fixture
def cluster(tmp_path: Path, ports: dict[str, int]) -> Iterator[Path]:
    """`make cluster`, more quickly: its directory is where the README's commands are run."""
    flags = [word for use, port in ports.items() for word in (f"--{use}-port", str(port))]
    log = tmp_path / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aspen.cli.main", "dev", "--nodes", "3", "--profile", "lan", *flags],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 30
        while "Aspen is ready" not in log.read_text("utf-8"):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        yield tmp_path
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text("utf-8")


def run(script: str, directory: Path, ports: dict[str, int]) -> str:
    """Run a block of the README with its ports exchanged for ours; returns what it printed."""
    for use, first in DOCUMENTED.items():
        for i in range(3):
            script = re.sub(rf"\b{first + i}\b", str(ports[use] + i), script)
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ASPEN_ADDR": f"http://127.0.0.1:{ports['http']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("source .venv/bin/activate\n", "")],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.skipif(not (shutil.which("dig") and shutil.which("curl")), reason="needs dig and curl")
def test_five_minutes_to_a_working_cluster(cluster: Path, ports: dict[str, int]) -> None:
    make, publish, ask, plain_http, kv, kill = blocks("Five minutes to a working cluster")
    assert make == "make cluster\n"
    assert "published" in run(publish, cluster, ports)
    assert '"relay=https://relay.example./"' in run(ask, cluster, ports)
    run(plain_http, cluster, ports)
    assert "hello" in run(kv, cluster, ports)
    shown = run(kill, cluster, ports)
    assert shown.count("addresses") == 2  # two tables of members, before and after
