"""Members of different versions: what all of them can apply, and what none may propose before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from in_process import Member, cluster, leader_of, put

from aspen.errors import ProposalError, StorageError
from aspen.services import proposer as proposer_module
from aspen.services.cluster_level import ClusterLevel
from aspen.services.proposer import ClusterProposer
from aspen.state.kv_commands import KvSet
from aspen.state.level import cluster_level, member_level
from aspen.state.settings import LmdbSettings


def level_of(member: Member, own: int) -> ClusterLevel:
    return ClusterLevel(member.consensus, member.proposer, LmdbSettings(member.store), own=own)


async def test_the_cluster_s_level_is_the_least_of_its_members(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        old = next(member for member in members.values() if member is not leader)
        newer = [level_of(member, 2) for member in members.values() if member is not old]
        for _ in range(2):
            for level in newer:
                await level.look()
        settings = LmdbSettings(leader.store)
        assert member_level(settings, leader.node_id) == 2
        assert member_level(settings, old.node_id) == 1
        assert cluster_level(settings) == 1
        newer.append(level_of(old, 2))
        async with asyncio.timeout(20):
            while cluster_level(settings) != 2:  # each looks at its own replica, which may be a moment behind
                await asyncio.sleep(0.01)  # a look that finds nothing to propose lets nobody else run
                for level in newer:
                    await level.look()


async def test_members_of_the_first_level_need_say_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        before = leader.consensus.driver.raw.commit_index
        for member in members.values():
            await level_of(member, 1).look()
        assert leader.consensus.driver.raw.commit_index == before


async def test_nobody_proposes_what_not_all_can_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposer_module, "LEVELS", {KvSet: 2})
    async with cluster(tmp_path, size=1) as members:
        (member,) = members.values()
        careful = ClusterProposer(member.consensus, LmdbSettings(member.store))
        with pytest.raises(ProposalError, match="needs commands of level 2, and the cluster is at 1"):
            await careful.propose(KvSet(((b"k", b"v"),)))
        level = level_of(member, 2)
        await level.look()
        await level.look()
        await careful.propose(KvSet(((b"k", b"v"),)))


async def test_a_member_that_meets_a_newer_command_halts_and_the_log_goes_no_further(tmp_path: Path) -> None:
    """Were it to go on, its state would be another than that of those who can apply it."""
    async with cluster(tmp_path, size=1) as members:
        (member,) = members.values()
        await put(member, b"before", b"yes")
        doomed = asyncio.ensure_future(member.consensus.driver.propose(msgspec.msgpack.encode([79, b"x"])))
        await member.until(lambda: bool(member.failures))
        (failure,) = member.failures
        assert isinstance(failure, StorageError)
        assert "that this version of Aspen doesn't know" in str(failure)
        assert member.kv.get(b"before") is not None
        with pytest.raises(ProposalError):
            await doomed
