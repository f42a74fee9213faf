"""The `Proposer` that request handlers hold: commands and read barriers over the consensus."""

from __future__ import annotations

from aspen.errors import NotLeader, invariant
from aspen.raft.cluster import Consensus
from aspen.state.commands import Command, Result, encode_command, validate_command
from aspen.state.ports import Consistency, Freshness


class ClusterProposer:
    """`aspen.state.ports.Proposer` over this node's `Consensus`."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus = consensus

    async def propose(self, command: Command) -> Result:
        """Raises `CommandError` or a kind of `KeyValueStoreError` for a command that breaks a
        limit, else `NoLeader`, `Overloaded`, `NoRoom` or `OutcomeUnknown`."""
        validate_command(command)
        result = await self._consensus.driver.propose(encode_command(command))
        invariant(isinstance(result, Result), "the machine answered oddly")
        answer: Result = result
        return answer

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
