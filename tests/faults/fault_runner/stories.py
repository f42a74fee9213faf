"""Faults told as stories, each with what must be seen at each step; a random run asks less, but of more."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from clients import sign
from fault_runner.lease_story import stepping_clocks
from fault_runner.shim import FailingSyncs
from fault_runner.switch import Conditions
from fault_runner.testbed import FaultyNode, Testbed
from processes import wait_until

OCTETS: Final = {"Accept": "application/octet-stream"}
FILLER: Final = b"x" * 50_000


def _write(node: FaultyNode, key: str, value: bytes) -> tuple[int, str]:
    """Status, and what the error is called."""
    answer = node.request("PUT", f"/v1/kv/{key}", value)
    return answer.status, "" if answer.status == 200 else answer.json["error"]


def _read(node: FaultyNode, key: str, consistency: str) -> tuple[int, bytes]:
    answer = node.request("GET", f"/v1/kv/{key}?consistency={consistency}", headers=OCTETS)
    return answer.status, answer.body


def _leader(bed: Testbed) -> FaultyNode:
    return next(node for node in bed if node is bed.leader())


def full_disk(bed: Testbed) -> None:
    """A leader whose disk is full hands over, says why, answers reads, and comes back when there is room."""
    full = _leader(bed)
    assert full.disk is not None
    others = [node for node in bed if node is not full]
    known = sign("known=before")
    assert full.put(known).status == 204
    assert _write(full, "before", b"v") == (200, "")
    full.disk.fill()

    def refused() -> bool:
        status, error = _write(full, "filler", FILLER)
        assert status in (200, 503), status
        assert error in ("", "no_room", "outcome_unknown"), error
        return error == "no_room"

    wait_until(refused, "the leader says that it has no room", timeout_s=15)
    wait_until(lambda: others[0].status()["leader_id"] not in (0, full.node_id), "another leads")
    wait_until(lambda: full.status()["role"] == "follower", "it has stepped down")
    assert all(_write(node, f"by-{node.node_id}", b"w") == (200, "") for node in others)
    assert not full.ready()
    assert full.alive
    assert _read(full, "before", "stale") == (200, b"v")
    assert full.resolves(known)
    assert full.stored(known)
    assert _write(full, "during", b"v") == (503, "no_room")
    assert full.put(sign("during=it")).status == 503

    full.kill()
    full.start()  # on a full disk: it serves what it has, as before
    wait_until(lambda: full.status() is not None, "it has started", timeout_s=20)
    assert _read(full, "before", "stale") == (200, b"v")
    answers = "/readyz?for=dns"  # its UDP worker may take longer to start
    wait_until(lambda: full.request("GET", answers).status == 200, "DNS answers", timeout_s=30)
    assert full.resolves(known)

    full.disk.make_room()
    wait_until(full.ready, "it serves again")
    wait_until(lambda: _read(full, f"by-{others[1].node_id}", "stale") == (200, b"w"), "it has caught up")
    wait_until(lambda: _write(full, "after", b"v") == (200, ""), "it takes writes")
    assert _read(others[0], "during", "consistent")[0] == 404
    bed.wait_same_state()


def _halts(bed: Testbed, failing: FailingSyncs) -> None:
    victim = _leader(bed)
    others = [node for node in bed if node is not victim]
    key = f"sync-{failing.name.lower()}"
    assert _write(victim, key, b"before") == (200, "")
    victim.fail_syncs(failing)
    try:
        assert _write(victim, key, b"never")[0] != 200
    except (OSError, ValueError):
        pass  # it was gone before it could answer
    wait_until(lambda: not victim.alive, "it halts", timeout_s=10)
    assert victim.process is not None
    assert victim.process.returncode not in (0, -9, -11), victim.process.returncode
    wait_until(lambda: _write(others[0], key, b"after") == (200, ""), "the others take writes")
    victim.fail_syncs(FailingSyncs.NONE)
    victim.start()
    victim.wait_ready()
    assert _read(victim, key, "consistent") == (200, b"after")
    bed.wait_same_state()


def failing_fsync(bed: Testbed) -> None:
    """A leader whose fsync fails halts and acknowledges nothing; so it does when only LMDB's root fails."""
    for failing in (FailingSyncs.ALL, FailingSyncs.ROOT):
        _halts(bed, failing)


def one_way_link(bed: Testbed) -> None:
    """A follower that the leader can't reach, but that reaches everyone, does not depose it."""
    assert bed.switch is not None
    leader = _leader(bed)
    deaf = next(node for node in bed if node is not leader)
    term = leader.status()["term"]
    bed.switch.set({(leader.node_id, deaf.node_id): Conditions(cut=True)})
    until = time.monotonic() + 3.0
    written = 0
    while time.monotonic() < until:
        assert _write(leader, "one-way", str(written).encode()) == (200, "")
        written += 1
        time.sleep(0.01)
    assert leader.status()["term"] == term, "there was an election"
    bed.switch.heal()
    wait_until(deaf.ready, "it hears the leader again")
    wait_until(
        lambda: _read(deaf, "one-way", "consistent") == (200, str(written - 1).encode()), "it has caught up"
    )


Story = Callable[[Testbed], None]

STORIES: Final[dict[str, tuple[Story, tuple[str, ...]]]] = {
    "full_disk": (full_disk, ("disk",)),
    "failing_fsync": (failing_fsync, ("fsync",)),
    "stepping_clocks": (stepping_clocks, ("clock",)),
    "one_way_link": (one_way_link, ("partition",)),
}
"""Name → the story, and the faults that it needs."""
