"""Changing who the members are while they work: through any node, with a certain outcome."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from in_process import TIMING, Member, Network, cluster, identity_of, leader_of, put, state_of

from aspen.errors import ControlPlaneError, NoLeader, ProposalError
from aspen.identity import Identity
from aspen.raft import pending, standing
from aspen.raft.admission import RefusalCode
from aspen.raft.cluster import Timing
from aspen.raft.messages import ConfState, Entry, EntryKind, Message, MessageType
from aspen.raft.plans import Remove
from aspen.state.ports import Consistency

SLOW = Timing(heartbeat_ms=500, election_min_ms=1_500, election_max_ms=3_000)
"""An election can't be mistaken for a hiccup of a busy machine."""


def address_of(node_id: int) -> tuple[tuple[str, int], ...]:
    return (("127.0.0.1", 7_300 + node_id),)


def joiner(members: dict[int, Member], node_id: int, tmp_path: Path, **options: object) -> Member:
    """A node that knows nobody, on the network of the others."""
    network = next(iter(members.values())).network
    folder = tmp_path / f"{node_id}-{len(list(tmp_path.iterdir()))}"
    member = Member(node_id, folder, network, knows=(), **options)  # type: ignore[arg-type]
    members[node_id] = member
    return member


async def add(through: Member, member: Member, timeout_ms: int = 5_000) -> None:
    await through.consensus.control.add_learner(
        member.node_id, member.identity.endpoint_id, address_of(member.node_id), timeout_ms
    )


def voters(member: Member) -> tuple[int, ...]:
    return member.consensus.roster.conf_state.voters


def learners(member: Member) -> tuple[int, ...]:
    return member.consensus.roster.conf_state.learners


def whois(member: Member, cluster_id: bytes | None = None) -> tuple[int, bytes, bytes]:
    """What it says of itself when it meets another."""
    return member.node_id, member.identity.endpoint_id, cluster_id or member.consensus.cluster_id


def sent_by(member: Member) -> list[MessageType]:
    """What it sends from now on."""
    sent: list[MessageType] = []
    send = member.network.send

    def watched(messages: Sequence[Message]) -> None:
        sent.extend(message.type for message in messages if message.sender == member.node_id)
        send(messages)

    member.consensus.driver._transport = Watched(watched)
    return sent


class Watched:
    def __init__(self, send: Callable[[Sequence[Message]], None]) -> None:
        self.send = send


def follower_of(members: dict[int, Member]) -> Member:
    return next(m for m in members.values() if not m.consensus.is_leader)


# --- growing ------------------------------------------------------------------------------------


async def test_a_learner_gets_the_log_and_then_a_vote(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        await put(members[1], b"before", b"v")
        four = joiner(members, 4, tmp_path)
        through = follower_of(members)
        await add(through, four)
        assert learners(through) == (4,)
        await four.until(lambda: four.kv.get(b"before") is not None and learners(four) == (4,))
        assert four.consensus.roster == through.consensus.roster
        await put(four, b"from a learner", b"v")
        await four.consensus.control.promote(4)
        assert voters(four) == (1, 2, 3, 4)
        assert four.consensus.roster.member(4).addresses == address_of(4)  # type: ignore[union-attr]


async def test_whom_the_membership_does_not_name_neither_proposes_nor_leads(tmp_path: Path) -> None:
    """Who has the cookie, and no more, speaks to members whose leader is there: it is not heard."""
    async with cluster(tmp_path) as members:
        node = members[1]
        await put(node, b"k", b"v")
        raw = node.consensus.driver.raw
        term, last = raw.term, raw.last_index
        entry = Entry(term + 5, last + 1, EntryKind.NORMAL, bytes(64))
        node.consensus.driver.receive(
            Message(MessageType.PROP, to=1, sender=99, entries=(Entry(data=bytes(64)),))
        )
        for kind in (MessageType.APP, MessageType.HEARTBEAT, MessageType.VOTE, MessageType.SNAP):
            node.consensus.driver.receive(
                Message(kind, to=1, sender=99, term=term + 5, log_term=term, index=last, entries=(entry,))
            )
        await put(node, b"k", b"w")
        assert (raw.term, raw.last_index) == (term, last + 1)


async def test_asking_for_what_is_so_already_changes_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        change = members[1].consensus.control
        await members[1].consensus.read_barrier()
        roster = members[1].consensus.roster
        await change.add_learner(2, members[2].identity.endpoint_id, ())
        await add(members[1], members[2])
        await change.promote(2)
        await change.change_membership(frozenset({1, 2, 3}))
        assert members[1].consensus.roster == roster
        await change.add_learner(2, members[2].identity.endpoint_id, (("192.0.2.1", 1),))
        assert members[1].consensus.roster.member(2).addresses == (("192.0.2.1", 1),)  # type: ignore[union-attr]
        assert voters(members[1]) == (1, 2, 3)


async def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        change = members[1].consensus.control
        stranger = Identity.generate().endpoint_id
        for attempt in (
            change.add_learner(0, stranger, ()),
            change.add_learner(2, stranger, ()),  # the id is another key's
            change.add_learner(9, members[2].identity.endpoint_id, ()),  # the key is another id's
            change.change_membership(frozenset()),
        ):
            with pytest.raises(ControlPlaneError.InvalidRequest) as refused:
                await attempt
            assert not isinstance(refused.value, ControlPlaneError.UnknownNode)
        for attempt in (
            change.promote(9),
            change.remove(9),
            change.change_membership(frozenset({1, 2, 9})),
            change.transfer_leader(9),
        ):
            with pytest.raises(ControlPlaneError.UnknownNode, match="9"):
                await attempt
    async with cluster(tmp_path / "one", 1) as members:
        with pytest.raises(ControlPlaneError.InvalidRequest, match="last voter"):
            await members[1].consensus.control.remove(1)


async def test_nothing_can_be_changed_before_there_is_a_cluster(tmp_path: Path) -> None:
    member = Member(1, tmp_path, Network())
    for attempt in (
        member.consensus.control.promote(1),
        member.consensus.control.remove(1),
        member.consensus.control.transfer_leader(1),
    ):
        with pytest.raises(ControlPlaneError.NotInitialized):
            await attempt
    await member.stop()


async def test_a_learner_that_is_not_there_gets_no_vote(tmp_path: Path) -> None:
    """Or the next write would wait for it (thesis §4.2.1)."""
    async with cluster(tmp_path, 1) as members:
        one = members[1]
        await one.consensus.control.add_learner(2, identity_of(2).endpoint_id, address_of(2))
        with pytest.raises(ControlPlaneError.Timeout, match=r"not caught up yet: node 2"):
            await one.consensus.control.promote(2, timeout_ms=100)
        await put(one, b"k", b"v")
        two = joiner(members, 2, tmp_path)
        await one.consensus.control.promote(2)
        assert voters(one) == (1, 2)
        assert two.kv.get(b"k") is not None


async def test_no_change_may_leave_a_quorum_of_the_dead(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        dead, alive = (n for n in members if n != leader.node_id)
        await members[dead].stop()
        with pytest.raises(ControlPlaneError.Failed, match=f"no sign of node {dead}"):
            await leader.consensus.control.remove(alive, timeout_ms=500)
        await leader.consensus.control.remove(dead)
        assert set(voters(leader)) == {leader.node_id, alive}


# --- fates --------------------------------------------------------------------------------------


async def test_of_two_changes_at_once_one_waits_for_the_other(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        four, five = joiner(members, 4, tmp_path), joiner(members, 5, tmp_path)
        await asyncio.gather(add(members[1], four), add(members[2], five), add(members[3], four))
        for n in (1, 2, 3):
            await members[n].until(lambda n=n: learners(members[n]) == (4, 5))  # type: ignore[misc]


async def test_a_change_that_the_leader_voids_is_known_to_its_proposer(tmp_path: Path) -> None:
    """Wherever that one is: the marker behind the change tells."""
    async with cluster(tmp_path) as members:
        leader, follower = leader_of(members), follower_of(members)
        # What no plan would try: a change from a membership that is not the present one.
        await follower.consensus.read_barrier()
        roster = follower.consensus.roster
        stale = msgspec.structs.replace(roster, conf_state=ConfState(voters=(1, 2)))
        for member in (leader, follower):
            change = Remove(2).change(stale)
            assert change is not None
            refusal = await member.consensus.propose_change(change)
            assert refusal is not None
            assert refusal.code is RefusalCode.STALE
        assert members[1].consensus.roster == roster
        await put(follower, b"k", b"v")


async def test_a_joint_configuration_in_the_way_is_named(tmp_path: Path) -> None:
    async with cluster(tmp_path, timing=SLOW) as members:
        for n in (4, 5):
            await add(members[1], joiner(members, n, tmp_path))
        leader = leader_of(members)
        joint = asyncio.ensure_future(
            leader.consensus.control.change_membership(frozenset({1, 4, 5}), timeout_ms=300)
        )
        await leader.until(lambda: leader.consensus.roster.joint)
        with pytest.raises(ControlPlaneError.Failed, match="under way"):
            await leader.consensus.control.remove(2, timeout_ms=0)
        leader.network.cut = {n for n in members if n != leader.node_id}
        with pytest.raises(ControlPlaneError.OutcomeUnknown, match="joint"):
            await joint
        leader.network.cut = set()
        await leader.until(lambda: not leader.consensus.roster.joint)
        assert voters(leader) == (1, 4, 5)


async def test_a_change_nobody_confirms_has_an_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 200)
    monkeypatch.setattr(pending, "RAFT_READ_MS", 200)
    async with cluster(tmp_path, timing=SLOW) as members:
        leader = leader_of(members)
        await leader.proposer.barrier(Consistency.CONSISTENT)
        attempt = asyncio.ensure_future(
            leader.consensus.control.add_learner(4, identity_of(4).endpoint_id, (), timeout_ms=1_000)
        )
        await leader.until(lambda: bool(leader.consensus.driver.proposals._pending))
        leader.network.cut = {1, 2, 3}
        with pytest.raises(ControlPlaneError.OutcomeUnknown):
            await attempt
        with pytest.raises(ControlPlaneError.Timeout, match="nothing was changed"):
            await leader.consensus.control.promote(2, timeout_ms=0)


# --- leadership ---------------------------------------------------------------------------------


async def test_leadership_goes_where_it_is_sent(tmp_path: Path) -> None:
    async with cluster(tmp_path, timing=SLOW) as members:
        for member in members.values():
            await member.consensus.read_barrier()
        for n in (2, 3, 1):
            through = members[1 + n % 3]
            await through.consensus.control.transfer_leader(n, timeout_ms=10_000)
            assert through.consensus.leader_id == n
            await put(through, b"k", b"%d" % n)


async def test_leadership_stays_if_its_heir_is_away(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        heir = follower_of(members)
        leader.network.cut = {heir.node_id}
        with pytest.raises(ControlPlaneError.Timeout, match=f"node {leader.node_id} leads"):
            await leader.consensus.control.transfer_leader(heir.node_id, timeout_ms=300)
        await put(leader, b"k", b"v")


async def test_writes_on_the_leader_outlive_a_transfer(tmp_path: Path) -> None:
    """They wait for the next leader, who gets them."""
    async with cluster(tmp_path, timing=SLOW) as members:
        leader, heir = leader_of(members), follower_of(members)
        transfer = asyncio.ensure_future(leader.consensus.control.transfer_leader(heir.node_id))
        await leader.until(lambda: leader.consensus.driver.raw.raft.lead_transferee != 0)
        await asyncio.gather(*(put(leader, b"k%d" % i, b"v") for i in range(20)))
        await transfer
        assert heir.consensus.is_leader


async def test_a_member_that_was_away_is_reached_by_a_leader_it_never_heard_of(tmp_path: Path) -> None:
    """Everyone it knew has left meanwhile; whoever leads now can only tell it itself."""
    async with cluster(tmp_path) as members:
        for member in members.values():
            await member.consensus.read_barrier()
        await members[1].consensus.control.transfer_leader(1)
        away = members[3]
        away.network.cut = {3}
        for n in (4, 5):
            await add(members[1], joiner(members, n, tmp_path))
        await members[1].consensus.control.change_membership(frozenset({3, 4, 5}))
        for n in (1, 2):
            await members.pop(n).stop()
        await members[4].until(lambda: members[4].consensus.leader_id in (4, 5))
        await put(members[4], b"k", b"v")
        assert voters(away) == (1, 2, 3)
        away.network.cut = set()
        await away.until(lambda: away.kv.get(b"k") is not None)
        assert voters(away) == (3, 4, 5)
        assert not away.consensus.removed


async def test_no_heir_is_waited_for_that_is_away(tmp_path: Path) -> None:
    """A leader takes no writes while it hands over: it must not try the dead first."""
    async with cluster(tmp_path, timing=SLOW) as members:
        for member in members.values():
            await member.consensus.read_barrier()
        four = joiner(members, 4, tmp_path, timing=SLOW)
        await add(members[1], four)
        await members[1].consensus.control.promote(4)
        await members[1].consensus.control.transfer_leader(1)
        await members.pop(2).stop()
        await asyncio.sleep(2 * SLOW.election_min_ms / 1000)  # so long it may count as alive
        gaps: list[float] = []
        acknowledged: list[bytes] = []
        load = asyncio.ensure_future(write_on(members, 0, acknowledged, gaps))
        await members[1].consensus.control.remove(1)
        assert members[1].consensus.leader_id in (0, 3, 4)
        members.pop(1)
        await written(four, acknowledged, 30)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        assert max(gaps) < SLOW.election_min_ms / 1000


# --- removal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_removed_node_knows_it_and_is_quiet(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "RAFT_REMOVED_VOTES_MS", 0)
    async with cluster(tmp_path) as members:
        gone = leader_of(members) if who == "leader" else follower_of(members)
        await gone.consensus.control.remove(gone.node_id)
        rest = [m for m in members.values() if m is not gone]
        assert gone.consensus.removed
        await gone.until(lambda: gone.consensus.leader_id == 0)
        with pytest.raises(NoLeader, match="removed"):
            await put(gone, b"k", b"v")
        for member in rest:
            await put(member, b"still", b"here")
            await member.until(lambda member=member: len(voters(member)) == 2)  # type: ignore[misc]
            assert member.consensus.admit(*whois(gone)) == "removed"
        # It doesn't campaign, and a candidate gets no answer from it.
        term = gone.consensus.driver.raw.term
        sent = sent_by(gone)
        await asyncio.sleep(0.3)
        request = Message(MessageType.VOTE, gone.node_id, rest[0].node_id, term + 1, term, index=1_000)
        gone.consensus.driver.receive(request)
        await asyncio.sleep(0.05)
        assert sent == []
        assert gone.consensus.driver.raw.term == term


async def test_a_node_removed_while_it_was_away_is_told_by_the_others(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        gone = follower_of(members)
        await gone.consensus.read_barrier()
        network = gone.network
        network.cut = {gone.node_id}
        through = leader_of(members)
        await through.consensus.control.remove(gone.node_id)
        network.cut = set()
        await gone.until(lambda: gone.consensus.removed)
        assert gone.node_id in voters(gone)  # its own log says nothing
        with pytest.raises(NoLeader, match="removed"):
            await gone.consensus.read_barrier()
        assert through.refusals["removed"]
        assert not any(m.consensus.removed for m in members.values() if m is not gone)
        await put(through, b"k", b"v")


async def test_a_removed_node_comes_back_wiped_with_a_new_key(tmp_path: Path) -> None:
    """Under its old node id; its old self stays outside."""
    async with cluster(tmp_path) as members:
        old = follower_of(members)
        n = old.node_id
        through = leader_of(members)
        with pytest.raises(ControlPlaneError.InvalidRequest, match="remove that node first"):
            await through.consensus.control.add_learner(n, Identity.generate().endpoint_id, address_of(n))
        await through.consensus.control.remove(n)
        await old.stop()
        new = joiner(members, n, tmp_path, identity=Identity.generate())
        await add(through, new)
        await through.consensus.control.promote(n)
        await new.until(lambda: n in voters(new))
        await put(new, b"k", b"v")
        assert not new.consensus.removed
        for member in members.values():
            if member is not new:
                assert member.consensus.admit(*whois(old, member.consensus.cluster_id)) == "removed"


async def test_a_removed_node_comes_back_with_all_it_had(tmp_path: Path) -> None:
    """The same key, added again: what the log said of it before counts no more."""
    async with cluster(tmp_path) as members:
        back = follower_of(members)
        through = leader_of(members)
        await back.consensus.read_barrier()
        await through.consensus.control.remove(back.node_id)
        await back.until(lambda: back.consensus.removed)
        await add(through, back)
        await through.consensus.control.promote(back.node_id)
        await back.until(lambda: not back.consensus.removed and back.consensus.leader_id != 0)
        await put(back, b"k", b"v")
        assert not through.consensus.roster.removed


async def test_the_word_of_one_who_lags_does_not_remove_a_member_in_touch(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        one, two = members[1], members[2]
        await two.consensus.read_barrier()
        two.consensus.refused_by(one.identity.endpoint_id, "removed")
        await asyncio.sleep(2 * TIMING.election_max_ms / 1000)
        assert not two.consensus.removed
        two.network.cut = {2}
        await two.until(lambda: two.consensus.leader_id == 0)
        two.consensus.refused_by(Identity.generate().endpoint_id, "removed")  # nobody's word
        await asyncio.sleep(2 * TIMING.election_max_ms / 1000)
        assert not two.consensus.removed
        two.consensus.refused_by(one.identity.endpoint_id, "removed")
        await two.until(lambda: two.consensus.removed)
        two.network.cut = set()  # and when it can be heard again, the leader speaks to it
        await two.until(lambda: not two.consensus.removed)


# --- the whole story ----------------------------------------------------------------------------


async def test_one_three_five_three_under_load_loses_nothing_and_never_waits(tmp_path: Path) -> None:
    """1 → 3 → 5 → 3, the first leader among those that go."""
    async with cluster(tmp_path, 1, timing=SLOW) as members:
        acknowledged: list[bytes] = []
        gaps: list[float] = []
        writers = [asyncio.ensure_future(write_on(members, w, acknowledged, gaps)) for w in range(4)]
        for size in (3, 5):
            for n in range(size - 1, size + 1):
                await add(members[1], joiner(members, n, tmp_path, timing=SLOW))
            await members[size].until(lambda size=size: bool(members[size].consensus.roster.members))  # type: ignore[misc]
            await members[size].consensus.control.change_membership(frozenset(range(1, size + 1)))
        assert voters(members[5]) == (1, 2, 3, 4, 5)
        assert leader_of(members) is members[1]
        gone = [members.pop(1), members.pop(2)]  # no new writes go there
        await members[4].consensus.control.change_membership(frozenset({3, 4, 5}))
        await written(members[4], acknowledged, 50)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        for member in members.values():
            await member.consensus.read_barrier()
            assert all(member.kv.get(key) is not None for key in acknowledged)
            await member.until(lambda member=member: state_of(member) == state_of(members[4]))  # type: ignore[misc]
            assert set(voters(member)) == {3, 4, 5}
        for member in gone:
            await member.until(lambda member=member: member.consensus.removed)  # type: ignore[misc]
        assert max(gaps) < SLOW.election_min_ms / 1000


async def write_on(
    members: dict[int, Member], writer: int, acknowledged: list[bytes], gaps: list[float]
) -> None:
    """One write after the other, in turns through all who know a leader; notes how long each took."""
    loop = asyncio.get_running_loop()
    last = loop.time()
    for i in itertools.count():
        through = [member for member in members.values() if member.consensus.leader_id]
        if not through:
            await asyncio.sleep(0.001)
            continue
        key = b"load-%d-%d" % (writer, i)
        try:
            await put(through[(writer + i) % len(through)], key, b"v")
        except ProposalError:
            continue  # not acknowledged: it may be lost
        acknowledged.append(key)
        gaps.append(loop.time() - last)
        last = loop.time()


async def written(member: Member, acknowledged: list[bytes], more: int) -> None:
    """Wait for the load to go on."""
    goal = len(acknowledged) + more
    await member.until(lambda: len(acknowledged) >= goal)
