"""Membership from the outside: carry out a plan through any node, and say exactly what came of it.

One attempt: look at the membership as of now (a read barrier), see what is left to do, propose it.
The change is made, or certainly refused, or its fate can't be known (`admission` says how a node
that doesn't lead can tell). A refusal that time heals (another change under way, a learner that has
not caught up) is tried again until the deadline; nothing was changed then. What is unknown is never
tried again: a look at the membership may still show that the goal is reached.

A leader that is to go hands over first, so that nobody waits for an election timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from aspen.errors import ControlPlaneError, NoLeader, NoRoom, OutcomeUnknown, Overloaded, ProposalError
from aspen.limits import CONTROL_MS, CONTROL_PAUSE_MAX_MS, CONTROL_PAUSE_MIN_MS, CONTROL_POLL_MS
from aspen.raft.admission import Refusal, RefusalCode
from aspen.raft.messages import ConfChangeV2
from aspen.raft.plans import (
    AddLearner,
    Address,
    AdoptKey,
    AnnounceKey,
    ChangeVoters,
    Founder,
    Plan,
    Promote,
    Remove,
    voters_after,
)
from aspen.raft.roster import Roster

log = structlog.get_logger("aspen.raft")

_ASKS_PER_TIMEOUT: Final = 4  # of an election, for which one attempt to hand over lasts


class Ground(Protocol):
    """What a member offers to those who change the membership."""

    @property
    def node_id(self) -> int: ...

    @property
    def endpoint_id(self) -> bytes: ...

    @property
    def term(self) -> int: ...

    @property
    def roster(self) -> Roster: ...

    @property
    def leader_id(self) -> int: ...

    @property
    def removed(self) -> bool: ...

    @property
    def election_timeout_ms(self) -> int:
        """The longest."""
        ...

    def initialise(self, members: Sequence[Founder]) -> None:
        """Found a cluster. Raises `ControlPlaneError.InvalidRequest`."""
        ...

    async def propose_change(self, change: ConfChangeV2) -> Refusal | None:
        """As `aspen.raft.driver.RaftDriver.propose_change`."""
        ...

    async def read_barrier(self) -> None:
        """Return once the roster is no older than this call. Raises `NoLeader` or `Overloaded`."""
        ...

    def ask_transfer(self, node_id: int) -> bool:
        """Ask the leader to hand over to a voter. It may or may not come to pass; False if it won't."""
        ...

    def now_ms(self) -> int: ...

    async def sleep_ms(self, duration_ms: int) -> None: ...


class MembershipControl:
    """The operations. Each returns when what was asked for is so, as far as this node sees.

    Each raises `ControlPlaneError.InvalidRequest` or `.NotInitialized` (nothing was changed),
    `.Timeout` or `.Failed` (nothing was changed, and the message says what was in the way) or
    `.OutcomeUnknown`.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    @property
    def ground(self) -> Ground:
        """The member it works on, to look at."""
        return self._ground

    async def found(self, members: Sequence[Founder]) -> None:
        """Found a cluster of these members, this node among them, and wait until it has a leader.

        Raises `ControlPlaneError.InvalidRequest`, or `.Timeout` if it is founded but nobody leads yet.
        """
        self._ground.initialise(members)
        try:
            await self._ground.read_barrier()
        except ProposalError as error:
            raise ControlPlaneError.Timeout(
                f"the cluster was founded, but has no leader yet: {error}"
            ) from None

    async def add_learner(
        self,
        node_id: int,
        endpoint_id: bytes,
        addresses: tuple[Address, ...],
        timeout_ms: int = CONTROL_MS,
    ) -> None:
        """Make a node a member that gets the log but has no vote."""
        await self._reach(AddLearner(node_id, endpoint_id, addresses), timeout_ms)

    async def promote(self, node_id: int, timeout_ms: int = CONTROL_MS) -> None:
        """Give a learner its vote, once it has caught up."""
        await self._reach(Promote(node_id), timeout_ms)

    async def remove(self, node_id: int, timeout_ms: int = CONTROL_MS) -> None:
        """Take a member out of the cluster."""
        self._check_founded()
        if self._ground.roster.member(node_id) is None:
            await self._barrier(timeout_ms)
            if self._ground.roster.member(node_id) is None:
                raise ControlPlaneError.UnknownNode(f"node {node_id} is not a member")
        await self._reach(Remove(node_id), timeout_ms)

    async def change_membership(self, voters: frozenset[int], timeout_ms: int = CONTROL_MS) -> None:
        """Make these members the voters, all at once; voters that are not among them leave."""
        await self._reach(ChangeVoters(voters), timeout_ms)

    async def announce_key(self, node_id: int, endpoint_id: bytes, timeout_ms: int = CONTROL_MS) -> None:
        """Have a member admitted by another key beside its own; then `adopt_key`."""
        await self._reach(AnnounceKey(node_id, endpoint_id), timeout_ms)

    async def adopt_key(self, node_id: int, endpoint_id: bytes, timeout_ms: int = CONTROL_MS) -> None:
        """Let the key that a member announced take the place of its own."""
        await self._reach(AdoptKey(node_id, endpoint_id), timeout_ms)

    async def step_aside(self, timeout_ms: int = CONTROL_MS) -> None:
        """If this node leads, have another voter lead, if one will."""
        ground = self._ground
        others = frozenset(ground.roster.conf_state.voters) - {ground.node_id}
        await self._retire_leader(others, ground.now_ms() + timeout_ms)

    async def transfer_leader(self, to: int, timeout_ms: int = CONTROL_MS) -> None:
        """Have `to` lead."""
        self._check_founded()
        await self._barrier(timeout_ms)
        if self._ground.roster.member(to) is None:
            raise ControlPlaneError.UnknownNode(f"node {to} is not a member")
        if to not in self._ground.roster.conf_state.voters:
            raise ControlPlaneError.InvalidRequest(f"node {to} is not a voter")
        deadline = self._ground.now_ms() + timeout_ms
        while not await self._hand_over_to(to, deadline):
            await self._ground.sleep_ms(CONTROL_PAUSE_MIN_MS)
            if self._ground.now_ms() >= deadline:
                raise ControlPlaneError.Timeout(
                    f"node {to} did not take over; {self._leader_text()}. It may be behind, or out of reach"
                )

    # --- one plan -----------------------------------------------------------------------------

    async def _reach(self, plan: Plan, timeout_ms: int) -> None:
        ground = self._ground
        self._check_founded()
        deadline = ground.now_ms() + timeout_ms
        pause_ms = CONTROL_PAUSE_MIN_MS
        while True:
            refusal = await self._attempt(plan, deadline)
            if refusal is None:
                break
            if refusal.code is RefusalCode.INVALID:
                raise ControlPlaneError.InvalidRequest(refusal.reason)
            if ground.now_ms() + pause_ms >= deadline:
                raise _gave_up(refusal)
            await ground.sleep_ms(pause_ms)
            pause_ms = min(2 * pause_ms, CONTROL_PAUSE_MAX_MS)
        if not await self._until(lambda: not ground.roster.joint or ground.removed, deadline):
            raise ControlPlaneError.OutcomeUnknown(
                "the change is committed and under way, but not finished: the cluster is in a joint "
                "configuration, which it leaves as soon as both its halves have a quorum"
            )

    async def _attempt(self, plan: Plan, deadline: int) -> Refusal | None:
        """None when the goal is reached or its last change is in effect."""
        ground = self._ground
        if ground.removed and plan.is_removal_of(ground.node_id):
            return None
        await self._barrier(max(0, deadline - ground.now_ms()))
        if ground.roster.joint:
            return Refusal(RefusalCode.BUSY, "another membership change is under way")
        change = plan.change(ground.roster)
        if change is None:
            return None
        await self._retire_leader(voters_after(ground.roster, change), deadline)
        try:
            return await ground.propose_change(change)
        except (Overloaded, NoLeader, NoRoom) as error:
            return Refusal(RefusalCode.BUSY, str(error))
        except OutcomeUnknown as error:
            if await self._turns_out_reached(plan):
                return None
            raise ControlPlaneError.OutcomeUnknown(
                f"{error}; look at the cluster's status before trying again"
            ) from None

    async def _turns_out_reached(self, plan: Plan) -> bool:
        """Whether the membership shows that a change of unknown fate was made, or is not needed."""
        ground = self._ground
        try:
            await ground.read_barrier()
        except ProposalError:
            if not ground.removed:
                return False
        if ground.removed and plan.is_removal_of(ground.node_id):
            return True
        try:
            return plan.change(ground.roster) is None
        except ControlPlaneError:
            return False

    # --- leadership ---------------------------------------------------------------------------

    async def _retire_leader(self, voters: frozenset[int], deadline: int) -> None:
        """If the leader will not vote any more, have one of those lead who will."""
        ground = self._ground
        if not ground.leader_id or ground.leader_id in voters:
            return
        heirs = sorted(
            voters.intersection(ground.roster.conf_state.voters), key=lambda n: (n != ground.node_id, n)
        )
        for heir in heirs:
            if await self._hand_over_to(heir, deadline):
                return
        log.info("the leader is to go and found nobody to hand over to", voters=sorted(voters))

    async def _hand_over_to(self, node_id: int, deadline: int) -> bool:
        ground = self._ground
        if ground.leader_id == node_id:
            return True
        timeout_ms = ground.election_timeout_ms
        limit = min(deadline, ground.now_ms() + timeout_ms)
        while ground.now_ms() < limit:
            if not ground.ask_transfer(node_id):  # asked again, it does no harm: it may have been lost
                return False
            pause = min(limit, ground.now_ms() + timeout_ms // _ASKS_PER_TIMEOUT)
            if await self._until(lambda: ground.leader_id == node_id, pause):
                return True
        return False

    def _leader_text(self) -> str:
        leader_id = self._ground.leader_id
        return f"node {leader_id} leads" if leader_id else "no leader is known"

    # --- waiting ------------------------------------------------------------------------------

    def _check_founded(self) -> None:
        if not self._ground.roster.members and not self._ground.leader_id:
            raise ControlPlaneError.NotInitialized("this node belongs to no cluster yet")

    async def _barrier(self, timeout_ms: int) -> None:
        """The roster as of now, or an error that says that nothing was changed."""
        ground = self._ground
        deadline = ground.now_ms() + timeout_ms
        while True:
            try:
                await ground.read_barrier()
                return
            except ProposalError as error:
                if ground.removed:
                    raise ControlPlaneError.Failed("this node was removed from the cluster") from None
                if ground.now_ms() >= deadline:
                    raise ControlPlaneError.Timeout(f"nothing was changed: {error}") from None
                await ground.sleep_ms(CONTROL_PAUSE_MIN_MS)

    async def _until(self, condition: Callable[[], bool], deadline: int) -> bool:
        ground = self._ground
        while not condition():
            if ground.now_ms() >= deadline:
                return False
            await ground.sleep_ms(CONTROL_POLL_MS)
        return True


def _gave_up(refusal: Refusal) -> ControlPlaneError:
    text = f"nothing was changed: {refusal.reason}"
    if refusal.code is RefusalCode.BEHIND:
        return ControlPlaneError.Timeout(text)
    return ControlPlaneError.Failed(text)
