"""Knot, NSD and BIND follow a zone of ours: AXFR, NOTIFY, IXFR, with TSIG; and nsupdate changes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import free_port
from processes import end_with_parent, wait_until
from secondaries import HOST, KEY_ARGUMENT, SECONDARIES, Secondary, contents_at, serial_at
from zone_primary import ZONE

HOSTS = 10_000
ODD = 29  # records beside the hosts, SOA left out


class Primary:
    """A node that holds the zone, as a process (`zone_primary`)."""

    def __init__(self, folder: Path, count: int) -> None:
        self.port, self._http, self._quic = free_port(), free_port(), free_port()
        self._folder = folder
        self._log = folder.with_suffix(".log")
        self._count = count
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *notify: str) -> None:
        script = Path(__file__).with_name("zone_primary.py")
        ports = (self.port, self._count, self._http, self._quic)
        with open(self._log, "wb") as log_file:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(self._folder), *map(str, ports), *notify],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                preexec_fn=end_with_parent,
            )
        process = self.process
        wait_until(lambda: "ready\n" in self.log() or process.poll() is not None, "the primary is ready", 30)
        assert process.poll() is None, self.log()[-3_000:]

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(10)


def nsupdate(
    port: int, commands: str, *options: str, key: str | None = KEY_ARGUMENT
) -> subprocess.CompletedProcess[str]:
    signing = () if key is None else ("-y", key)
    text = f"server {HOST} {port}\nzone {ZONE}\nttl 300\n{commands}\nsend\nanswer\n"
    return subprocess.run(
        ["nsupdate", *signing, *options], input=text, capture_output=True, text=True, timeout=20, check=False
    )


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Primary]:
    primary = Primary(tmp_path_factory.mktemp("primary") / "node", HOSTS)
    try:
        primary.start()
        yield primary
    finally:
        primary.stop()


@pytest.fixture(params=SECONDARIES, ids=lambda kind: kind.__name__)
def secondary(request: pytest.FixtureRequest, tmp_path: Path, primary: Primary) -> Iterator[Secondary]:
    kind: type[Secondary] = request.param
    if not kind.installed():
        pytest.skip(f"{kind.program} is not installed")
    secondary = kind(tmp_path / "secondary", primary.port)
    # The node starts again with this secondary among those it tells.
    primary.stop()
    primary.start(secondary.target)
    try:
        secondary.start()
        yield secondary
    finally:
        secondary.stop()


def test_a_secondary_follows_by_axfr_notify_and_ixfr_and_serves_the_same(
    primary: Primary, secondary: Secondary
) -> None:
    serial = wait_until(lambda: serial_at(primary.port), "the primary answers", 20)
    secondary.wait_serial(serial)
    ours = contents_at(primary.port, signed=True)
    assert len(ours) >= HOSTS + ODD
    assert contents_at(secondary.port) == ours
    # Its refresh interval is an hour: only a NOTIFY can tell it of what follows.
    name = type(secondary).__name__.lower()
    for step in range(3):
        done = nsupdate(
            primary.port,
            f"update add {name}-{step}.{ZONE} A 192.0.2.{step + 1}\n"
            f"update delete 00{step:04d}.hosts.{ZONE}\n"
            f"update add 00500{step}.hosts.{ZONE} TXT {name}",
        )
        assert done.returncode == 0, done.stderr
        serial += 1
        secondary.wait_serial(serial, 15)
    ours = contents_at(primary.port)
    assert contents_at(secondary.port) == ours
    assert primary.log().count("form=IXFR") == 3, primary.log()[-2_000:]
