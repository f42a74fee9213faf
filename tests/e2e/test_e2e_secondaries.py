"""Knot, NSD and BIND follow a zone of ours: AXFR, NOTIFY, IXFR, with TSIG; and nsupdate changes it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until
from secondaries import (
    SECONDARIES,
    CuttingProxy,
    Knot,
    Nsd,
    Secondary,
    ZonePrimary,
    contents_at,
    nsupdate,
    serial_at,
)
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


@pytest.mark.parametrize("kind", [Knot, Nsd], ids=lambda kind: kind.__name__)
def test_a_primary_killed_within_a_transfer_leaves_the_secondary_whole(
    kind: type[Secondary], tmp_path: Path
) -> None:
    """kill -9 after a part of an IXFR: the secondary goes on with what it had, and follows later."""
    if not kind.installed():
        pytest.skip(f"{kind.program} is not installed")
    primary = ZonePrimary(tmp_path / "node", 100)
    proxy = CuttingProxy(primary.port)
    secondary = kind(tmp_path / "secondary", proxy.port)
    try:
        primary.start(secondary.target)
        serial = wait_until(lambda: serial_at(primary.port), "the primary answers", 20)
        secondary.start()
        secondary.wait_serial(serial)
        before = contents_at(secondary.port)
        proxy.cut_after(20_000, lambda: primary.stop(signal.SIGKILL))
        many = "\n".join(f"add many-{i}.{ZONE} A 192.0.2.1" for i in range(1_200))
        assert nsupdate(primary.port, many, "-v").returncode == 0
        assert proxy.was_cut.wait(20)
        assert secondary.serial() == serial
        assert contents_at(secondary.port) == before
        primary.start(secondary.target)
        secondary.wait_serial(serial + 1)
        after = contents_at(secondary.port)
        assert after == contents_at(primary.port)
        assert len(after) == len(before) + 1_200
    finally:
        secondary.stop()
        primary.stop()
        proxy.close()


def test_a_secondary_may_be_trusted_by_its_address_alone(primary: ZonePrimary, tmp_path: Path) -> None:
    """Neither transfers nor NOTIFY are signed then."""
    if not Nsd.installed():
        pytest.skip("nsd is not installed")
    secondary = Nsd(tmp_path / "secondary", primary.port, key=False)
    primary.stop()
    primary.start(secondary.target)
    try:
        serial = wait_until(lambda: serial_at(primary.port), "the primary answers", 20)
        secondary.start()
        secondary.wait_serial(serial)
        assert nsupdate(primary.port, f"add unsigned.{ZONE} A 192.0.2.1").returncode == 0
        secondary.wait_serial(serial + 1, 15)
        assert contents_at(secondary.port) == contents_at(primary.port)
    finally:
        secondary.stop()
