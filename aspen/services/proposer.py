"""The `Proposer` that request handlers hold: commands and read barriers over the consensus."""

from __future__ import annotations

from aspen.errors import CommandError, NotLeader, ProposalError, invariant
from aspen.raft.admission import read_marker
from aspen.raft.cluster import Consensus
from aspen.state.commands import Command, Result, encode_command, validate_command
from aspen.state.level import FIRST_LEVEL, LEVELS, cluster_level
from aspen.state.ports import Consistency, Freshness
from aspen.state.settings import LmdbSettings


class ClusterProposer:
    """`aspen.state.ports.Proposer` over this node's `Consensus`."""

    def __init__(self, consensus: Consensus, settings: LmdbSettings | None = None) -> None:
        """`settings` tell what all members can apply; without them, commands of the first release."""
        self._consensus = consensus
        self._settings = settings

    async def propose(self, command: Command) -> Result:
        """Raises `CommandError` or a kind of `KeyValueStoreError` for a command that breaks a
        limit, `ProposalError` for one that not every member can apply yet, else `NoLeader`,
        `Overloaded`, `NoRoom` or `OutcomeUnknown`."""
        validate_command(command)
        if (needed := LEVELS.get(type(command), FIRST_LEVEL)) > FIRST_LEVEL:
            self._check_level(needed)
        result = await self._consensus.driver.propose(encode_command(command))
        if isinstance(result, bytes):  # the leader's word in the command's place (`raft.proposing`)
            raise CommandError(f"the leader refused the command: {read_marker(result).reason}")
        invariant(isinstance(result, Result), "the machine answered oddly")
        answer: Result = result
        return answer

    def _check_level(self, needed: int) -> None:
        level = FIRST_LEVEL if self._settings is None else cluster_level(self._settings)
        if needed > level:
            raise ProposalError(
                f"this needs commands of level {needed}, and the cluster is at {level}: "
                "not every member runs a version that knows them"
            )

    async def barrier(self, consistency: Consistency) -> None:
        """Raises `NotLeader`, `NoLeader` or `Overloaded`."""
        if consistency is Consistency.STALE:
            return
        consensus = self._consensus
        if consistency is Consistency.LEADER and not consensus.is_leader:
            raise NotLeader(consensus.driver.leader_id)
        await consensus.driver.read_barrier(leased=consistency is Consistency.LEADER)

    def freshness(self) -> Freshness:
        consensus = self._consensus
        driver = consensus.driver
        return Freshness(driver.applied_index, driver.leader_id, consensus.since_contact_ms())
