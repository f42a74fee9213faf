"""Says what this member can apply, and, while it leads, raises the whole cluster's level (`state.level`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from aspen.errors import ProposalError
from aspen.limits import CLUSTER_LEVEL_CHECK_MS
from aspen.raft.cluster import Consensus
from aspen.state.level import CLUSTER_SETTING, LEVEL, MEMBER_SETTING, cluster_level, member_level
from aspen.state.ports import Proposer
from aspen.state.settings import LmdbSettings, SettingPut

log = structlog.get_logger("aspen.level")


class ClusterLevel:
    """One member's part."""

    def __init__(
        self,
        consensus: Consensus,
        proposer: Proposer,
        settings: LmdbSettings,
        own: int = LEVEL,
    ) -> None:
        self._consensus = consensus
        self._proposer = proposer
        self._settings = settings
        self._own = own

    def start(self) -> Callable[[], Awaitable[None]]:
        """Look now and then. Returns how to stop."""
        task = asyncio.create_task(self._keep_looking(), name="cluster level")

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        return stop

    async def look(self) -> None:
        """Propose what is due, if anything is. Raises `ProposalError`."""
        consensus, settings = self._consensus, self._settings
        own_id = consensus.driver.node_id
        members = [member.node_id for member in consensus.roster.members]
        if not consensus.driver.leader_id or own_id not in members:
            return
        if member_level(settings, own_id) != self._own:
            await self._put(MEMBER_SETTING.format(own_id), self._own)
        least = min(member_level(settings, node_id) for node_id in members)
        if consensus.is_leader and least > cluster_level(settings):
            await self._put(CLUSTER_SETTING, least)
            log.info("every member can apply newer commands", level=least)

    async def _put(self, name: str, level: int) -> None:
        await self._proposer.propose(SettingPut(name, str(level).encode()))

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self.look()
            except ProposalError as error:
                log.info("put off", reason=str(error))
            except Exception:
                log.exception("the cluster's level could not be looked at")
            await asyncio.sleep(CLUSTER_LEVEL_CHECK_MS / 1000)
