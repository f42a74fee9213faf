"""Asking all members what their state hashes to at one log index, and telling who differs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from aspen.errors import ControlPlaneError, NoLeader, OutcomeUnknown, ProposalError
from aspen.http.control import CheckReport, MemberCheck
from aspen.identity import EndpointId
from aspen.limits import CHECKPOINT_UNREACHED_MS, CONTROL_PAUSE_MAX_MS
from aspen.raft.cluster import Consensus
from aspen.raft.roster import Member
from aspen.services.proposer import ClusterProposer
from aspen.state.checkpoint import Checkpoints
from aspen.state.commands import Checkpoint, CheckpointReport, CheckpointResult
from aspen.state.store import Store

log = structlog.get_logger("aspen.check")

_TRIES = 5  # to get a report into the log
_LOOK_MS = 20  # between two looks at who has reported


class ClusterCheck:
    """This node's part in checks: it reports its own hash, and asks for all of them when told to."""

    def __init__(self, store: Store) -> None:
        """Give `checkpoints` to the machine; `start` before the first command is applied."""
        self.checkpoints = Checkpoints(store, self._hashed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop
        self._consensus: Consensus
        self._proposer: ClusterProposer
        self._reaches: Callable[[EndpointId], bool]

    def start(
        self,
        consensus: Consensus,
        proposer: ClusterProposer,
        reaches: Callable[[EndpointId], bool] = lambda _: True,
    ) -> None:
        """`reaches`: whether this node has a connection with another."""
        self._reaches = reaches
        self._loop = asyncio.get_running_loop()
        self._consensus = consensus
        self._proposer = proposer

    async def stop(self) -> None:
        self._stopped = True
        self.checkpoints.give_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- reporting ----------------------------------------------------------------------------

    def _hashed(self, index: int, digest: bytes) -> None:
        """On the hashing thread."""
        self._loop.call_soon_threadsafe(self._report_soon, index, digest)

    def _report_soon(self, index: int, digest: bytes) -> None:
        if not self._stopped:
            task = self._loop.create_task(self._report(index, digest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _report(self, index: int, digest: bytes) -> None:
        log.info("state hashed", index=index, hash=digest.hex())
        report = CheckpointReport(index, self._consensus.node_id, digest)
        for _ in range(_TRIES):
            try:
                await self._proposer.propose(report)
                return
            except ProposalError as error:  # saying it twice does no harm
                log.info("report not in the log yet", index=index, reason=str(error))
                await asyncio.sleep(CONTROL_PAUSE_MAX_MS / 1000)

    # --- asking -------------------------------------------------------------------------------

    async def check(self, timeout_ms: int, index: int = 0) -> CheckReport:
        """Have all members hash their state at one index, and wait for what they say: for those that this
        node can't reach, a short while only. With an `index`, wait for those that are still to come there.

        Raises `ControlPlaneError.NotInitialized`, `.Timeout` or `.OutcomeUnknown` if there is no
        checkpoint; a member that doesn't answer in time is part of the report.
        """
        members = self._consensus.roster.members
        if not members:
            raise ControlPlaneError.NotInitialized("this node belongs to no cluster yet")
        index = index or await self._checkpoint()
        asked = self._loop.time()
        while True:
            reports = self.checkpoints.reports(index)
            missing = [member for member in members if member.node_id not in reports]
            waited_ms = (self._loop.time() - asked) * 1000
            patience_ms = timeout_ms
            if not any(map(self._reached, missing)):
                patience_ms = min(timeout_ms, CHECKPOINT_UNREACHED_MS)
            if not missing or waited_ms >= patience_ms:
                break
            await asyncio.sleep(_LOOK_MS / 1000)
        reached = [member.node_id for member in members if self._reached(member)]
        return compare(index, [m.node_id for m in members], reports, self._leader_id, reached)

    async def _checkpoint(self) -> int:
        """Its index."""
        try:
            result = await self._proposer.propose(Checkpoint())
        except OutcomeUnknown as error:
            raise ControlPlaneError.OutcomeUnknown(str(error)) from None
        except NoLeader as error:
            raise ControlPlaneError.Timeout(str(error)) from None
        except ProposalError as error:
            raise ControlPlaneError.Failed(str(error)) from None
        if not isinstance(result, CheckpointResult):
            raise ControlPlaneError.Failed(f"the checkpoint was refused: {result}")
        return result.index

    def _reached(self, member: Member) -> bool:
        return member.node_id == self._consensus.node_id or self._reaches(member.endpoint_id)

    @property
    def _leader_id(self) -> int:
        return self._consensus.leader_id


def compare(
    index: int,
    members: Sequence[int],
    reports: Mapping[int, bytes],
    leader_id: int,
    reached: Collection[int],
) -> CheckReport:
    """Who has the hash that most have (of equally many, the leader's), who another, who none."""
    counts = Counter(reports[node_id] for node_id in members if node_id in reports)
    leaders = reports.get(leader_id)
    common = max(counts, key=lambda digest: (counts[digest], digest == leaders, digest), default=None)
    checks = []
    for node_id in members:
        digest = reports.get(node_id)
        state = "silent" if digest is None else "alike" if digest == common else "differs"
        shown = None if digest is None else digest.hex()
        checks.append(MemberCheck(node_id, state, shown, node_id in reached))
    return CheckReport(index, all(check.state == "alike" for check in checks), tuple(checks))
