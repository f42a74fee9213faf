"""Configurations (§6; thesis §4): what may follow what, on copies, with every invariant kept."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import InvariantViolation, RaftWireError
from aspen.raft import membership
from aspen.raft.membership import Configuration, ConfigurationRefused, ProgressDefaults, ProgressMap
from aspen.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryKind,
    conf_change_kind,
    decode_conf_change,
    encode_conf_change,
)
from aspen.raft.progress import NO_LIMIT

DEFAULTS = ProgressDefaults(10, 8, NO_LIMIT)

singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(0, 5))
conf_changes = st.builds(
    ConfChangeV2,
    st.lists(singles, max_size=4).map(tuple),
    st.sampled_from(ConfChangeTransition),
    st.binary(max_size=4),
)


@given(st.lists(conf_changes, max_size=12))
def test_any_sequence_of_changes_keeps_the_invariants(sequence: list[ConfChangeV2]) -> None:
    state: tuple[Configuration, ProgressMap] = membership.restore(ConfState(voters=(1,)), DEFAULTS)
    for change in sequence:
        before = (state[0], {node_id: item.view() for node_id, item in state[1].items()})
        try:
            following = membership.change(*state, change, DEFAULTS)
        except ConfigurationRefused:
            # Refused means that nothing at all has happened.
            assert (state[0], {node_id: item.view() for node_id, item in state[1].items()}) == before
            continue
        membership.check(*following)
        assert following[0].voters
        assert list(following[1]) == sorted(following[1])
        if not state[0].joint and not following[0].joint:
            assert len(state[0].voters ^ following[0].voters) <= 1
        state = following
        restored = membership.restore(state[0].conf_state(), DEFAULTS)
        assert restored[0] == state[0]
        assert restored[1].keys() == state[1].keys()


@given(st.lists(conf_changes, max_size=12), st.lists(conf_changes, max_size=3))
def test_leaving_a_joint_configuration_reaches_the_incoming_one(
    sequence: list[ConfChangeV2], more: list[ConfChangeV2]
) -> None:
    state: tuple[Configuration, ProgressMap] = membership.restore(ConfState(voters=(1, 2, 3)), DEFAULTS)
    for change in [*sequence, *more]:
        with contextlib.suppress(ConfigurationRefused):
            state = membership.change(*state, change, DEFAULTS)
    if state[0].joint:
        left, progress = membership.leave_joint(*state, DEFAULTS)
        assert left.voters == state[0].voters
        assert left.learners == state[0].learners | state[0].learners_next
        assert progress.keys() == left.voters | left.learners


def test_what_is_known_of_a_members_log_survives_promotion_and_demotion() -> None:
    configuration, progress = membership.restore(ConfState(voters=(1, 2), learners=(3,)), DEFAULTS)
    progress[3].maybe_update(7)
    promote = [ConfChangeSingle(ConfChangeType.ADD_NODE, 3)]
    configuration, progress = membership.simple(configuration, progress, promote, DEFAULTS)
    assert (progress[3].match, progress[3].is_learner) == (7, False)
    demote = [ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 3)]
    configuration, progress = membership.simple(configuration, progress, demote, DEFAULTS)
    assert (progress[3].match, progress[3].is_learner) == (7, True)


def test_a_configuration_that_contradicts_itself_is_never_accepted() -> None:
    for conf_state in (
        ConfState(voters=(1, 2), learners=(2,)),
        ConfState(voters=(1,), learners_next=(2,)),
        ConfState(voters=(1,), auto_leave=True),
    ):
        with pytest.raises(InvariantViolation):
            membership.restore(conf_state, DEFAULTS)


@given(conf_changes)
def test_a_change_survives_its_entry(change: ConfChangeV2) -> None:
    entry = Entry(1, 1, conf_change_kind(change), encode_conf_change(change))
    assert decode_conf_change(entry) == change


def test_a_v1_change_reads_as_one_of_v2() -> None:
    change = ConfChange(ConfChangeType.ADD_LEARNER_NODE, 4, b"who")
    entry = Entry(1, 1, conf_change_kind(change), encode_conf_change(change))
    assert entry.kind is EntryKind.CONF_CHANGE
    single = ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 4)
    assert decode_conf_change(entry) == ConfChangeV2((single,), context=b"who")


@pytest.mark.parametrize("data", [b"\xc1", b"\x93\x09\x01\xc4\x00", b"nonsense", b"\x93\x00\xff\xc4\x00"])
def test_what_is_not_a_change_is_refused(data: bytes) -> None:
    for kind in EntryKind:
        with pytest.raises(RaftWireError):
            decode_conf_change(Entry(1, 1, kind, data))
