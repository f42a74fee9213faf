"""The story of a clock that steps: no lease ends early by it, and none outlives its time."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from clients import sign
from fault_runner.testbed import FaultyNode, Testbed
from processes import wait_until

TTL_S: Final = 1.5
LATE_S: Final = 1.0
STEP_S: Final = 3_600.0
POLL_S: Final = 0.02


@dataclass
class Leased:
    """A key under a lease of its own, and when that was last granted or renewed."""

    key: str
    lease: int
    asked: float
    """Before the request: it can't have begun earlier."""
    answered: float
    seen: float = 0.0
    """When it was asked for last and was there."""
    gone: float = 0.0
    """When it was first known to be gone."""

    def look(self, node: FaultyNode) -> None:
        asked = time.monotonic()
        answer = node.request("GET", f"/v1/kv/{self.key}?consistency=stale", timeout_s=2.0)
        assert answer.status in (200, 404), answer.status
        if answer.status == 200:
            assert not self.gone, f"{self.key} came back"
            self.seen = asked
        elif not self.gone:
            self.gone = time.monotonic()

    def renew(self, node: FaultyNode) -> None:
        asked = time.monotonic()
        answer = node.request("POST", f"/v1/leases/{self.lease}", b"")
        assert answer.status == 200, answer.body
        self.asked, self.answered = asked, time.monotonic()

    def judge(self) -> None:
        early, late = self.gone - self.asked, self.seen - self.answered
        assert early >= TTL_S, f"{self.key} ended {early:.3f} s after its last renewal"
        assert late <= TTL_S + LATE_S, f"{self.key} was there {late:.3f} s after its last renewal"


def _leased(node: FaultyNode, key: str) -> Leased:
    asked = time.monotonic()
    answer = node.request("POST", "/v1/leases", json.dumps({"ttl_ms": int(TTL_S * 1_000)}).encode())
    assert answer.status in (200, 201), answer.body
    leased = Leased(key, answer.json["lease"], asked, time.monotonic())
    assert node.request("PUT", f"/v1/kv/{key}?lease={leased.lease}", b"held").status == 200
    return leased


def _step(leader: FaultyNode, victim: FaultyNode, name: str, offset_s: float) -> list[float]:
    """One step while two leases live, one of which is renewed after it; how long they lived, in seconds."""
    assert victim.page is not None
    left, kept = (_leased(leader, f"clock-{name}-{which}") for which in ("left", "kept"))
    begun = time.monotonic()
    stepped = renewed = False
    while not (left.gone and kept.gone):
        now = time.monotonic() - begun
        assert now < 3 * TTL_S + 2 * LATE_S, "a lease does not end"
        if not stepped and now >= TTL_S / 5:
            victim.page.step_clock(offset_s)
            stepped = True
            # Packets signed now are far ahead of a clock that was set back: it was, then.
            refused = victim.put(sign(f"{name}=step")).status != 204
            assert refused == (offset_s < 0), f"the clock of {victim} has not stepped"
        if not renewed and now >= TTL_S * 3 / 5:
            kept.renew(leader)
            renewed = True
        for leased in (left, kept):
            if not leased.gone:
                leased.look(leader)
        time.sleep(POLL_S)
    left.judge()
    kept.judge()
    return [leased.gone - leased.asked for leased in (left, kept)]


def stepping_clocks(bed: Testbed) -> None:
    """An hour's step of a follower's or the leader's clock ends no lease early, and keeps none alive."""
    leader = next(node for node in bed if node is bed.leader())
    follower = next(node for node in bed if node is not leader)
    term = leader.status()["term"]
    lived: list[float] = []
    for who, victim in (("follower", follower), ("leader", leader)):
        for way, offset_s in (("forward", STEP_S), ("back", -STEP_S)):
            lived += _step(leader, victim, f"{who}-{way}", offset_s)
        assert victim.page is not None
        victim.page.step_clock(0)
    assert leader.status()["term"] == term, "there was an election"
    for node in bed:
        wait_until(
            lambda node=node: (
                not node.request("GET", "/v1/kv?prefix=clock-&consistency=stale").json["entries"]
            ),
            f"no key is left at {node}",
        )
    print(f"leases of {TTL_S:g} s lived {min(lived):.2f} to {max(lived):.2f} s after their last renewal")
