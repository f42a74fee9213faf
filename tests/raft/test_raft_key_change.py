"""A member changes its key: what the roster says at each step, who may ask for what, and old encodings."""

from __future__ import annotations

import msgspec
import pytest

from aspen.errors import ControlPlaneError
from aspen.raft.admission import ChangeContext
from aspen.raft.messages import ConfState
from aspen.raft.plans import AddLearner, AdoptKey, AnnounceKey
from aspen.raft.roster import Member, NextKey, Roster, decode_context, decode_roster, encode_roster

CLUSTER = b"C" * 16
OLD, NEW, OTHER, STRANGER = (bytes([n]) * 32 for n in (1, 2, 3, 4))
VOTERS = ConfState(voters=(1, 2))
ADDRESS = (("192.0.2.1", 7300),)


def roster(**changes: object) -> Roster:
    members = (Member(1, OLD, ADDRESS, CLUSTER), Member(2, OTHER, (), CLUSTER))
    return msgspec.structs.replace(Roster(CLUSTER, VOTERS, members), **changes)


def announced() -> Roster:
    change = AnnounceKey(1, NEW).change(roster())
    assert change is not None
    return roster().changed(change, VOTERS)


def test_an_announced_key_may_be_used_beside_the_own_one() -> None:
    found = announced()
    assert found.next_key(1) == NEW
    member = found.member(1)
    assert member is not None
    assert member.endpoint_id == OLD
    assert found.by_endpoint(OLD) == found.by_endpoint(NEW) == member
    assert not found.has_removed(OLD)


def test_an_adopted_key_takes_the_place_of_the_old_one() -> None:
    change = AdoptKey(1, NEW).change(announced())
    assert change is not None
    found = announced().changed(change, VOTERS)
    assert found.member(1) == Member(1, NEW, ADDRESS, CLUSTER)
    assert found.next_keys == ()
    assert found.by_endpoint(OLD) is None
    assert found.has_removed(OLD)
    assert found.conf_state == VOTERS
    assert AdoptKey(1, NEW).change(found) is None
    assert AnnounceKey(1, NEW).change(found) is None


def test_another_announcement_takes_the_place_of_one_not_adopted() -> None:
    change = AnnounceKey(1, STRANGER).change(announced())
    assert change is not None
    found = announced().changed(change, VOTERS)
    assert found.next_keys == (NextKey(1, STRANGER),)
    assert found.by_endpoint(NEW) is None


def test_what_is_announced_already_needs_no_change() -> None:
    assert AnnounceKey(1, NEW).change(announced()) is None


@pytest.mark.parametrize(
    ("plan", "before", "says"),
    [
        (AnnounceKey(9, NEW), roster(), "9 is not a member"),
        (AnnounceKey(1, OTHER), roster(), "bound to node 2"),
        (AnnounceKey(2, NEW), announced(), "bound to node 1"),
        (AdoptKey(1, NEW), roster(), "announced no such key"),
        (AdoptKey(1, STRANGER), announced(), "announced no such key"),
        (AddLearner(3, NEW, ()), announced(), "bound to node 1"),
        (AddLearner(1, NEW, ()), announced(), "bound to another key"),
    ],
)
def test_what_can_not_be(plan: AnnounceKey, before: Roster, says: str) -> None:
    with pytest.raises(ControlPlaneError.InvalidRequest, match=says):
        plan.change(before)


def test_a_member_that_leaves_takes_its_next_key_with_it() -> None:
    change = AnnounceKey(1, NEW).change(roster())
    assert change is not None
    assert roster().changed(change, ConfState(voters=(2,))).next_keys == ()


def test_rosters_and_contexts_of_before_can_be_read() -> None:
    """A field more at the end: what was written without it has none."""
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_roster(roster()))[:6])
    assert decode_roster(older) == roster()
    context = msgspec.msgpack.encode([[], b"id", [1, 2]])
    assert decode_context(context) == ChangeContext((), b"id", (1, 2))
