"""The blocks of README and docs: found, and run as they stand, on other ports, beside a cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from ports import free_ports_in_a_row

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCUMENTED = {"dns": 5300, "http": 8080, "quic": 7300}

PAGES = [
    *(ROOT / name / "README.md" for name in (".", "deploy", "examples")),
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(
    r"^(?: *<!-- (?P<how>not run|run by): (?P<what>[^>]+) -->\n)?"
    r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_TO_FILL_IN = re.compile(r"<([a-z ]+)>")


class Block(NamedTuple):
    page: Path
    language: str
    code: str
    how: str
    """`not run`, `run by`, or nothing: it is run beside a cluster (or must parse, if it is no command)."""
    what: str
    """Why, or the test."""

    @property
    def name(self) -> str:
        return self.page.relative_to(ROOT).as_posix().removeprefix("docs/")


def blocks(page: Path) -> list[Block]:
    return [
        Block(
            page, found["language"], dedent(found["code"]), found["how"] or "", (found["what"] or "").strip()
        )
        for found in _BLOCK.finditer(page.read_text("utf-8"))
    ]


def blocks_for(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Page → the blocks whose mark names the test that asks, in their order."""
    found: dict[str, list[str]] = {}
    for block in (block for page in PAGES for block in blocks(page)):
        if block.how == "run by" and block.what == request.node.nodeid.partition("[")[0]:
            found.setdefault(block.name, []).append(block.code)
    assert found, "no page names this test"
    return found


def filled_in(script: str, **values: str | list[str]) -> str:
    """What stands in <angle brackets> is the reader's to fill in: here, one value after the other."""
    left = {name: [text] if isinstance(text, str) else list(text) for name, text in values.items()}
    script = _TO_FILL_IN.sub(lambda found: left[found[1].replace(" ", "_")].pop(0), script)
    assert not any(left.values()), f"nowhere to fill in {left}"
    return script


def own_ports() -> dict[str, int]:
    """The first of four free ports in a row, for each use."""
    return {use: free_ports_in_a_row(4) for use in DOCUMENTED}


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
