"""Knot, NSD and BIND follow a zone of ours: AXFR, NOTIFY, IXFR, with TSIG; and nsupdate changes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until
from secondaries import SECONDARIES, Secondary, ZonePrimary, contents_at, nsupdate, serial_at
from zone_primary import ZONE

HOSTS = 10_000
ODD = 29  # records beside the hosts, SOA left out


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZonePrimary]:
    primary = ZonePrimary(tmp_path_factory.mktemp("primary") / "node", HOSTS)
    try:
        primary.start()
        yield primary
    finally:
        primary.stop()


@pytest.fixture(params=SECONDARIES, ids=lambda kind: kind.__name__)
def secondary(request: pytest.FixtureRequest, tmp_path: Path, primary: ZonePrimary) -> Iterator[Secondary]:
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
    primary: ZonePrimary, secondary: Secondary
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
