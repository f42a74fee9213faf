"""Changing a node's key: what is asked of the cluster, and when nothing is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aspen.config import ClusterBootstrapConfig
from aspen.errors import ControlPlaneError
from aspen.identity import Identity
from aspen.node.identity import NEXT_FILE, IdentityRotation
from aspen.raft.messages import ConfState
from aspen.raft.roster import Member, NextKey, Roster

CLUSTER = b"C" * 16


class _Control:
    def __init__(self) -> None:
        self.announced: list[tuple[int, bytes]] = []

    async def announce_key(self, node_id: int, endpoint_id: bytes, timeout_ms: int) -> None:
        self.announced.append((node_id, endpoint_id))

    async def step_aside(self, timeout_ms: int) -> None:
        pass


async def _ended() -> None:
    pass


def rotation(data_dir: Path, roster: Roster, runs_under: Identity) -> tuple[IdentityRotation, _Control]:
    control = _Control()
    consensus: Any = SimpleNamespace(
        node_id=1, endpoint_id=runs_under.endpoint_id, roster=roster, control=control
    )
    config = ClusterBootstrapConfig(node_id=1, data_dir=data_dir)
    return IdentityRotation(config, consensus, runs_under, _ended), control


async def test_no_second_change_before_the_first_is_finished(tmp_path: Path) -> None:
    """The roster has the old key, and the one this node runs under as its next: a third would replace it."""
    old, new = Identity.generate(), Identity.generate()
    voters = ConfState(voters=(1,))
    member = Member(1, old.endpoint_id, (), CLUSTER)
    halfway = Roster(CLUSTER, voters, (member,), next_keys=(NextKey(1, new.endpoint_id),))
    rotating, control = rotation(tmp_path, halfway, new)
    with pytest.raises(ControlPlaneError.Failed, match="isn't finished: try again soon"):
        await rotating.rotate(1_000)
    assert control.announced == []
    assert not (tmp_path / NEXT_FILE).exists()


async def test_one_that_was_announced_and_not_taken_up_is_announced_again(tmp_path: Path) -> None:
    old = Identity.generate()
    member = Member(1, old.endpoint_id, (), CLUSTER)
    roster = Roster(CLUSTER, ConfState(voters=(1,)), (member,))
    rotating, control = rotation(tmp_path, roster, old)
    first = await rotating.rotate(1_000)
    second = await rotating.rotate(1_000)
    await rotating.stop()
    assert first == second
    assert control.announced == [(1, Identity.load(tmp_path / NEXT_FILE).endpoint_id)] * 2
