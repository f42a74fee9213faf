"""Which changes of the membership a leader lets into its log, and how the refused ones are told."""

from __future__ import annotations

import random

import pytest

from aspen.errors import ControlPlaneError, RaftWireError
from aspen.limits import RAFT_MEMBERS, RAFT_REMOVED_MEMBERS
from aspen.raft.admission import Refusal, RefusalCode, admitted, read_marker, refusal_of, sealed
from aspen.raft.envelope import MARKER, open_envelope
from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    encode_conf_change,
)
from aspen.raft.plans import AddLearner, ChangeVoters, Promote, Remove, voters_after
from aspen.raft.progress import ReplicationState
from aspen.raft.rawnode import RaftConfig, RawNode
from aspen.raft.roster import (
    ChangeContext,
    FormerMember,
    Member,
    Roster,
    decode_context,
    decode_roster,
    encode_context,
    encode_roster,
)

CLUSTER = b"c" * 16
REQUEST = b"r" * 16
ADDRESSES = (("192.0.2.1", 7300),)


def key_of(node_id: int) -> bytes:
    return bytes([node_id]) * 32


def member(node_id: int) -> Member:
    return Member(node_id, key_of(node_id), ADDRESSES, CLUSTER)


def roster_of(voters: tuple[int, ...], learners: tuple[int, ...] = ()) -> Roster:
    return Roster(CLUSTER, ConfState(voters, learners), tuple(member(n) for n in (*voters, *learners)))


def leader(voters: tuple[int, ...], learners: tuple[int, ...] = ()) -> RawNode:
    """Node 1, leading all of them, each caught up and alive."""
    storage = MemoryStorage(ConfState(voters, learners))
    raw = RawNode(
        RaftConfig(node_id=1, election_ticks=10, heartbeat_ticks=1, storage=storage, rng=random.Random(1))
    )
    raft = raw.raft
    raw.campaign()
    for voter in voters[1:]:
        raft.votes[voter] = True
    if len(voters) > 1:
        from aspen.raft.roles import become_leader

        become_leader(raft)
    while raw.has_ready():
        ready = raw.ready()
        storage.append(ready.entries)
        raw.advance()
    raft.log.committed = raft.log.last_index
    raft.log.applied_to(raft.log.last_index, 0)
    for progress in raft.progress.values():
        progress.match, progress.next = raft.log.last_index, raft.log.last_index + 1
        progress.state = ReplicationState.REPLICATE
        progress.recent_active = True
    return raw


def entry_of(change: ConfChangeV2 | None) -> Entry:
    assert change is not None
    return Entry(kind=EntryKind.CONF_CHANGE_V2, data=encode_conf_change(change))


def code_of(raw: RawNode, roster: Roster, change: ConfChangeV2 | None) -> RefusalCode | None:
    refusal = refusal_of(raw.raft, roster, entry_of(change))
    return None if refusal is None else refusal.code


# --- what is taken ------------------------------------------------------------------------------


def test_what_makes_sense_is_taken() -> None:
    raw, roster = leader((1, 2, 3), (4,)), roster_of((1, 2, 3), (4,))
    for plan in (
        AddLearner(5, key_of(5), ADDRESSES),
        AddLearner(2, key_of(2), (("192.0.2.2", 1),)),
        Promote(4),
        Remove(4),
        Remove(1),
        ChangeVoters({1, 4}),
    ):
        assert code_of(raw, roster, plan.change(roster)) is None


def test_one_change_at_a_time() -> None:
    raw, roster = leader((1, 2, 3), (4,)), roster_of((1, 2, 3), (4,))
    raw.raft.pending_conf_index = raw.raft.log.applied + 1
    assert code_of(raw, roster, Promote(4).change(roster)) is RefusalCode.BUSY
    raw.raft.pending_conf_index = 0
    raw.raft.lead_transferee = 2
    assert code_of(raw, roster, Promote(4).change(roster)) is RefusalCode.BUSY


def test_ids_and_keys_belong_together() -> None:
    raw, roster = leader((1, 2)), roster_of((1, 2))

    def add(node_id: int, *members: Member) -> ConfChangeV2:
        changes = (ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, node_id),)
        return ConfChangeV2(changes, context=encode_context(ChangeContext(members)))

    assert code_of(raw, roster, add(3, member(3))) is None
    for wrong in (
        add(3),  # without a key
        add(2, Member(2, key_of(9), (), CLUSTER)),
        add(3, Member(3, key_of(2), (), CLUSTER)),
        add(3, Member(3, key_of(3), (), b"another cluster!")),
    ):
        assert code_of(raw, roster, wrong) is RefusalCode.INVALID
    full = roster_of((1, 2), tuple(range(3, RAFT_MEMBERS + 1)))
    assert code_of(raw, full, add(RAFT_MEMBERS + 1, member(RAFT_MEMBERS + 1))) is RefusalCode.INVALID


def test_a_change_of_another_membership_is_stale() -> None:
    raw, roster = leader((1, 2, 3)), roster_of((1, 2, 3))
    seen_by_proposer = roster_of((1, 2))
    change = Remove(2).change(seen_by_proposer)
    assert code_of(raw, roster, change) is RefusalCode.STALE


@pytest.mark.parametrize("state", [ReplicationState.PROBE, ReplicationState.SNAPSHOT, None])
def test_a_voter_must_have_caught_up(state: ReplicationState | None) -> None:
    raw, roster = leader((1, 2), (3,)), roster_of((1, 2), (3,))
    progress = raw.raft.progress[3]
    if state is None:
        progress.match = -2_000
    else:
        progress.state = state
    assert code_of(raw, roster, Promote(3).change(roster)) is RefusalCode.BEHIND
    assert code_of(raw, roster, Remove(2).change(roster)) is None


def test_the_voters_to_be_need_a_living_quorum() -> None:
    raw, roster = leader((1, 2, 3)), roster_of((1, 2, 3))
    raw.raft.progress[3].recent_active = False
    assert code_of(raw, roster, Remove(2).change(roster)) is RefusalCode.UNSAFE
    assert code_of(raw, roster, Remove(3).change(roster)) is None


def test_what_the_core_cannot_make_and_what_is_no_change_are_invalid() -> None:
    raw, roster = leader((1,)), roster_of((1,))
    gone = ConfChangeV2((ConfChangeSingle(ConfChangeType.REMOVE_NODE, 1),))
    assert code_of(raw, roster, gone) is RefusalCode.INVALID
    garbage = ConfChangeV2(gone.changes, context=b"\xff")
    assert code_of(raw, roster, garbage) is RefusalCode.INVALID
    refusal = refusal_of(raw.raft, roster, Entry(kind=EntryKind.CONF_CHANGE, data=b"\xff"))
    assert refusal is not None
    assert refusal.code is RefusalCode.INVALID


# --- how it is told -----------------------------------------------------------------------------


def test_a_change_travels_in_front_of_its_marker() -> None:
    change = ConfChangeV2((ConfChangeSingle(ConfChangeType.ADD_NODE, 2),))
    entries = sealed([(b"a" * 16, b"command"), (REQUEST, MARKER)], {REQUEST: change}, 7)
    assert [entry.kind for entry in entries] == [
        EntryKind.NORMAL,
        EntryKind.CONF_CHANGE_V2,
        EntryKind.NORMAL,
    ]
    assert open_envelope(entries[2].data) == (REQUEST, 7, MARKER)


def test_a_refused_change_is_voided_and_its_marker_says_why() -> None:
    raw, roster = leader((1, 2, 3)), roster_of((1, 2, 3))
    stale = Remove(2).change(roster_of((1, 2)))
    assert stale is not None
    entries = sealed([(REQUEST, MARKER), (b"x" * 16, b"command")], {REQUEST: stale}, 7)
    after = admitted(raw.raft, roster, entries, 8)
    assert after[0] == Entry()
    assert after[2] == entries[2]
    request_id, time_ms, command = open_envelope(after[1].data)
    assert (request_id, time_ms) == (REQUEST, 8)
    assert read_marker(command) == Refusal(RefusalCode.STALE, "the membership has changed meanwhile")


def test_a_follower_and_a_leader_pass_on_what_may_be() -> None:
    raw, roster = leader((1, 2, 3)), roster_of((1, 2, 3))
    good = Remove(2).change(roster)
    assert good is not None
    entries = sealed([(REQUEST, MARKER)], {REQUEST: good}, 7)
    assert admitted(raw.raft, roster, entries, 8) == entries
    follower = RawNode(
        RaftConfig(
            node_id=2,
            election_ticks=10,
            heartbeat_ticks=1,
            storage=MemoryStorage(ConfState((1, 2, 3))),
            rng=random.Random(1),
        )
    )
    bad = (Entry(kind=EntryKind.CONF_CHANGE_V2, data=b"\xff"),)
    assert admitted(follower.raft, roster, bad, 8) == bad  # the leader will see to it


def test_a_refused_change_without_a_marker_is_voided_all_the_same() -> None:
    raw, roster = leader((1,)), roster_of((1,))
    bad = Entry(kind=EntryKind.CONF_CHANGE_V2, data=b"\xff")
    assert admitted(raw.raft, roster, (bad,), 8) == (Entry(),)
    command = sealed([(b"x" * 16, b"command")], {}, 7)[0]
    assert admitted(raw.raft, roster, (bad, command), 8) == (Entry(), command)


def test_a_bare_marker_means_that_the_core_voided_the_change() -> None:
    refusal = read_marker(MARKER)
    assert refusal.code is RefusalCode.BUSY
    for code in RefusalCode:
        assert read_marker(Refusal(code, "because: of this").marker()) == (code, "because: of this")


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_is_done_when_the_goal_is_reached() -> None:
    roster = roster_of((1, 2), (3,))
    assert AddLearner(3, key_of(3), ADDRESSES).change(roster) is None
    assert AddLearner(2, key_of(2), ()).change(roster) is None
    assert Promote(2).change(roster) is None
    assert Remove(9).change(roster) is None
    assert ChangeVoters({2, 1}).change(roster) is None


def test_one_voter_more_is_a_simple_change_and_two_are_joint() -> None:
    roster = roster_of((1, 2), (3, 4))
    simple, joint = ChangeVoters({1, 2, 3}).change(roster), ChangeVoters({1, 3, 4}).change(roster)
    assert simple is not None
    assert joint is not None
    assert not simple.enters_joint
    assert joint.enters_joint
    assert joint.auto_leave
    assert voters_after(roster, joint) == {1, 3, 4}
    assert decode_context(joint.context).voters == (1, 3, 4)


def test_impossible_plans_say_why() -> None:
    roster = roster_of((1, 2))
    for plan, why in (
        (AddLearner(2, key_of(9), ()), "bound to another key"),
        (AddLearner(9, key_of(2), ()), "bound to node 2"),
        (Promote(9), "not a member: node 9"),
        (ChangeVoters({1, 8, 9}), "not a member: node 8, 9"),
    ):
        with pytest.raises(ControlPlaneError.InvalidRequest, match=why):
            plan.change(roster)
    with pytest.raises(ControlPlaneError.InvalidRequest, match="last voter"):
        Remove(1).change(roster_of((1,)))
    assert Remove(3).is_removal_of(3)
    assert not Remove(3).is_removal_of(2)
    assert not ChangeVoters({1}).is_removal_of(2)


# --- the roster ---------------------------------------------------------------------------------


def change_of(kind: ConfChangeType, node_id: int, *members: Member) -> ConfChangeV2:
    return ConfChange(kind, node_id, encode_context(ChangeContext(members))).as_v2()


def test_a_roster_remembers_the_keys_it_removed() -> None:
    roster = roster_of((1, 2, 3))
    less = roster.changed(change_of(ConfChangeType.REMOVE_NODE, 3), ConfState((1, 2)))
    assert less.member(3) is None
    assert less.removed == (FormerMember(3, key_of(3)),)
    assert less.has_removed(key_of(3))
    other = Member(3, key_of(33), ADDRESSES, CLUSTER)
    anew = less.changed(change_of(ConfChangeType.ADD_LEARNER_NODE, 3, other), ConfState((1, 2), (3,)))
    assert anew.member(3) == other
    assert anew.has_removed(key_of(3))  # its old key stays outside
    back = less.changed(change_of(ConfChangeType.ADD_LEARNER_NODE, 3, member(3)), ConfState((1, 2), (3,)))
    assert back.removed == ()
    assert decode_roster(encode_roster(anew)) == anew


def test_a_voter_is_not_gone_before_the_joint_configuration_is() -> None:
    roster = roster_of((1, 2, 3))
    change = change_of(ConfChangeType.REMOVE_NODE, 3)
    joint = roster.changed(change, ConfState((1, 2), voters_outgoing=(1, 2, 3)))
    assert joint.joint
    assert joint.removed == ()
    assert joint.member(3) is not None
    left = joint.changed(ConfChangeV2(), ConfState((1, 2)))
    assert left.has_removed(key_of(3))
    assert not left.joint
    assert left.roles == {"voters": (1, 2)}


def test_what_a_roster_remembers_is_bounded() -> None:
    roster = roster_of((1,))
    for i in range(2 * RAFT_REMOVED_MEMBERS):
        key = i.to_bytes(32, "big")
        added = Member(2, key, (), CLUSTER)
        roster = roster.changed(change_of(ConfChangeType.ADD_LEARNER_NODE, 2, added), ConfState((1,), (2,)))
        roster = roster.changed(change_of(ConfChangeType.REMOVE_NODE, 2), ConfState((1,)))
    assert len(roster.removed) == RAFT_REMOVED_MEMBERS
    assert roster.has_removed((2 * RAFT_REMOVED_MEMBERS - 1).to_bytes(32, "big"))


def test_contexts_that_are_none_are_refused() -> None:
    assert decode_context(b"") == ChangeContext()
    for garbage in (b"\xff", b"\x91\x01", b"{}"):
        with pytest.raises(RaftWireError):
            decode_context(garbage)
