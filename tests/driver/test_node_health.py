"""Each check of a node's health, with what it looks at made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aspen.discovery.announcement import Announcement
from aspen.dns.pulses import Pulses
from aspen.errors import StorageError, StorageFull
from aspen.http.health import Check, HealthState
from aspen.limits import (
    CLOCK_DIFFERENCE_MS,
    DNS_WORKER_RESTART_SHOWN_MS,
    DNS_WORKER_SILENT_MS,
    RAFT_READY_LAG_ENTRIES,
    WRITER_STUCK_MS,
)
from aspen.node import health as node_health
from aspen.state.store import Store

HEALTHY, DEGRADED, UNHEALTHY = HealthState
DAY_S = 86_400


def driver(**given: Any) -> Any:
    writer = SimpleNamespace(alive=given.pop("alive", True), busy_ms=given.pop("busy_ms", 0))
    raw = SimpleNamespace(commit_index=given.pop("commit", 10))
    room = SimpleNamespace(error=given.pop("no_room", None))
    parts = {"failure": None, "writer": writer, "raw": raw, "room": room, "applied_index": 10, "leader_id": 1}
    return SimpleNamespace(**parts | given)


def consensus(**given: Any) -> Any:
    removed, members = given.pop("removed", False), given.pop("members", [1])
    return SimpleNamespace(removed=removed, roster=SimpleNamespace(members=members), driver=driver(**given))


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({}, HEALTHY, ""),
        ({"busy_ms": WRITER_STUCK_MS - 1}, HEALTHY, ""),
        ({"busy_ms": WRITER_STUCK_MS + 1}, UNHEALTHY, "the disk hangs"),
        ({"alive": False}, UNHEALTHY, "has ended"),
        ({"failure": StorageError("fsync failed")}, UNHEALTHY, "fsync failed"),
    ],
)
def test_the_writer(given: dict[str, Any], status: HealthState, says: str) -> None:
    check = node_health.check_writer(driver(**given))
    assert check.status is status
    assert says in check.reason


def test_workers_that_stand_still_are_named() -> None:
    pulses = Pulses()
    for second in range(12):
        pulses.look([second, 7], 0, second * 1000)
    check = node_health.check_workers(pulses, True, 11_000)
    assert check.status is DEGRADED
    assert check.reason.endswith("1 of 2")
    assert node_health.check_workers(pulses, True, 11_001 + DNS_WORKER_SILENT_MS).status is UNHEALTHY
    pulses.look([12, 8], 0, 12_000)
    assert node_health.check_workers(pulses, True, 12_000) == Check("workers")


def test_a_worker_started_again_is_shown_for_a_while() -> None:
    pulses = Pulses()
    pulses.look([1], 0, 0)
    pulses.look([2], 1, 1_000)
    assert "1 s ago" in node_health.check_workers(pulses, True, 2_000).reason
    pulses.look([3], 1, DNS_WORKER_RESTART_SHOWN_MS + 1_000)
    assert node_health.check_workers(pulses, True, DNS_WORKER_RESTART_SHOWN_MS + 1_000) == Check("workers")


def test_workers_that_have_not_come_up_yet() -> None:
    assert node_health.check_workers(Pulses(), False, 0).reason == "the UDP workers are starting"


def test_no_workers_are_no_complaint() -> None:
    assert node_health.check_workers(Pulses(), True, 1_000_000) == Check("workers")


def test_membership_and_leader() -> None:
    assert node_health.check_membership(consensus()).status is HEALTHY
    assert node_health.check_membership(consensus(members=[])).status is DEGRADED
    assert node_health.check_membership(consensus(removed=True)).status is UNHEALTHY
    assert node_health.check_leader(consensus(leader_id=0)).reason == "no leader is known"
    assert node_health.check_leader(consensus(leader_id=0, members=[])).status is HEALTHY  # said already


def test_a_copy_that_lags_or_is_stale() -> None:
    lags = consensus(commit=10 + RAFT_READY_LAG_ENTRIES + 1)
    assert "1001 entries behind" in node_health.check_replica(lags, 0, 60_000).reason
    assert "for 61 s" in node_health.check_replica(consensus(), 61_000, 60_000).reason
    assert node_health.check_replica(consensus(), 61_000, 0).status is HEALTHY  # 0: never said


@pytest.mark.parametrize(
    ("used", "status"), [(79.9, HEALTHY), (80, DEGRADED), (94.9, DEGRADED), (95, UNHEALTHY)]
)
def test_a_disk_that_fills(
    used: float, status: HealthState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As df(1) counts: what is reserved for root is no room."""
    blocks = SimpleNamespace(f_blocks=1_100, f_bfree=1_100 - used * 10, f_bavail=1_000 - used * 10)
    monkeypatch.setattr(node_health.os, "statvfs", lambda _: blocks)
    assert node_health.check_disk(tmp_path, driver()).status is status


def test_no_room_at_all_is_said_in_the_store_s_words(tmp_path: Path) -> None:
    check = node_health.check_disk(tmp_path, driver(no_room=StorageFull("quota")))
    assert (check.status, check.reason) == (UNHEALTHY, "no room: quota")


def test_the_map_of_a_real_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=2 * 1_048_576)
    assert node_health.check_map(store).status is HEALTHY
    with store.write() as txn:
        txn.put(b"big", bytes(1_800_000), db=store.tables["settings"])
    assert node_health.check_map(store).status is DEGRADED
    store.close()


@pytest.mark.parametrize(
    ("life_days", "left_days", "status"),
    [
        (397, 15, HEALTHY),
        (397, 13, DEGRADED),
        (397, -1, UNHEALTHY),
        (6, 2, HEALTHY),
        (6, 1, DEGRADED),
    ],
)
def test_certificates(life_days: int, left_days: int, status: HealthState) -> None:
    now_s = 1_800_000_000.0
    end_s = now_s + left_days * DAY_S
    bundle = SimpleNamespace(not_after_s=end_s, not_before_s=end_s - life_days * DAY_S)
    certificates: Any = SimpleNamespace(bundle=bundle)
    assert node_health.check_certificate(certificates, now_s).status is status
    assert node_health.check_certificate(None, now_s).status is HEALTHY


def heard(*offsets_ms: int) -> list[tuple[Announcement, int]]:
    now_ms = 1_800_000_000_000
    return [
        (Announcement(bytes(32), bytes(32), 1, (), None, (now_ms - off) * 1000, 0, bytes(32)), now_ms)
        for off in offsets_ms
    ]


def test_a_clock_that_differs_from_the_others() -> None:
    """One other node that is wrong doesn't make this one wrong."""
    far = CLOCK_DIFFERENCE_MS * 2
    assert node_health.check_clock([]) == Check("clock")
    assert node_health.check_clock(heard(2, -3, far)) == Check("clock")
    assert "10.0 s ahead of" in node_health.check_clock(heard(far, far, 0)).reason
    assert "10.0 s behind" in node_health.check_clock(heard(-far)).reason
