"""Quorums: Raft paper §5.2, §5.3, §6; the properties hold of any voters and any answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aspen.raft.quorum import (
    INFINITE_INDEX,
    VoteResult,
    committed_index,
    joint_committed_index,
    joint_vote_result,
    vote_result,
)

voters = st.frozensets(st.integers(1, 9), max_size=7)
some_voters = st.frozensets(st.integers(1, 9), min_size=1, max_size=7)
indexes = st.dictionaries(st.integers(1, 9), st.integers(0, 30))
votes = st.dictionaries(st.integers(1, 9), st.booleans())


def reached(group: frozenset[int], known: dict[int, int], index: int) -> bool:
    return sum(known.get(voter, 0) >= index for voter in group) > len(group) // 2


@given(some_voters, indexes)
def test_the_committed_index_is_the_largest_on_a_majority(
    group: frozenset[int], known: dict[int, int]
) -> None:
    """The definition itself: no mis-sorted progress may commit on less than a majority (openraft #1802)."""
    index = committed_index(group, known)
    assert reached(group, known, index)
    assert not reached(group, known, index + 1)


@given(voters, voters, indexes)
def test_a_joint_configuration_commits_what_both_halves_do(
    incoming: frozenset[int], outgoing: frozenset[int], known: dict[int, int]
) -> None:
    index = joint_committed_index(incoming, outgoing, known)
    assert index == joint_committed_index(outgoing, incoming, known)
    assert index == min(committed_index(incoming, known), committed_index(outgoing, known))


@given(voters, indexes, st.integers(1, 9), st.integers(0, 30))
def test_a_new_answer_never_uncommits(
    group: frozenset[int], known: dict[int, int], voter: int, more: int
) -> None:
    before = committed_index(group, known)
    assert committed_index(group, {**known, voter: max(known.get(voter, 0), more)}) >= before


@given(voters, votes)
def test_a_decided_election_stays_decided(group: frozenset[int], cast: dict[int, bool]) -> None:
    result = vote_result(group, cast)
    for rest in (True, False):
        final = vote_result(group, {**dict.fromkeys(group, rest), **cast})
        assert final is not VoteResult.PENDING
        assert result in (VoteResult.PENDING, final)


@given(some_voters, votes)
def test_pending_means_that_both_ends_are_open(group: frozenset[int], cast: dict[int, bool]) -> None:
    ends = {vote_result(group, {**dict.fromkeys(group, rest), **cast}) for rest in (True, False)}
    assert (vote_result(group, cast) is VoteResult.PENDING) == (len(ends) == 2)


@given(voters, voters, votes)
def test_a_joint_election_needs_both_halves(
    incoming: frozenset[int], outgoing: frozenset[int], cast: dict[int, bool]
) -> None:
    halves = {vote_result(incoming, cast), vote_result(outgoing, cast)}
    result = joint_vote_result(incoming, outgoing, cast)
    assert result is joint_vote_result(outgoing, incoming, cast)
    assert (result is VoteResult.WON) == (halves == {VoteResult.WON})
    assert (result is VoteResult.LOST) == (VoteResult.LOST in halves)


@given(some_voters, indexes, votes)
def test_the_empty_half_agrees_with_everything(
    group: frozenset[int], known: dict[int, int], cast: dict[int, bool]
) -> None:
    assert joint_committed_index(group, frozenset(), known) == committed_index(group, known)
    assert joint_vote_result(group, frozenset(), cast) is vote_result(group, cast)
    assert committed_index(frozenset(), known) == INFINITE_INDEX
    assert vote_result(frozenset(), cast) is VoteResult.WON


@given(some_voters, votes, votes)
def test_two_candidates_never_both_win(
    group: frozenset[int], cast: dict[int, bool], other: dict[int, bool]
) -> None:
    """Election safety (§5.2): each voter grants at most one of them."""
    against = {voter: granted and not cast.get(voter, False) for voter, granted in other.items()}
    both = {vote_result(group, cast), vote_result(group, against)}
    assert both != {VoteResult.WON}
