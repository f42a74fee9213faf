"""What a quorum has agreed on: pure functions over sets of voters.

A majority of n voters is n // 2 + 1 of them. A joint configuration is two sets of voters, and
agrees on what both of its majorities agree on (§6). The empty set agrees with everything, so
that a configuration which isn't joint is a joint one whose second half is empty.

Raft paper §5.3 (commitment), §5.2 (votes), §6 (joint consensus).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Final

INFINITE_INDEX: Final = 2**64 - 1
"""What the empty majority has committed."""


class VoteResult(Enum):
    PENDING = "pending"  # those who have not voted yet may still decide it either way
    LOST = "lost"
    WON = "won"


def committed_index(voters: Collection[int], acknowledged: Mapping[int, int]) -> int:
    """The highest index that a majority of `voters` has acknowledged; who is missing is at 0."""
    count = len(voters)
    if not count:
        return INFINITE_INDEX
    get = acknowledged.get
    indexes = sorted([get(voter, 0) for voter in voters])
    # Ascending: everyone from this position on has at least that index, and they are a majority.
    return indexes[(count - 1) // 2]


def joint_committed_index(
    incoming: Collection[int], outgoing: Collection[int], acknowledged: Mapping[int, int]
) -> int:
    """The highest index that both majorities have acknowledged."""
    index = committed_index(incoming, acknowledged)
    return min(index, committed_index(outgoing, acknowledged)) if outgoing else index


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Whether those of `votes` that are cast by `voters` decide the election yet."""
    if not voters:
        return VoteResult.WON
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    majority = len(voters) // 2 + 1
    if granted >= majority:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= majority else VoteResult.LOST


def joint_vote_result(
    incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
) -> VoteResult:
    """Won if both halves are won, lost as soon as one is lost."""
    first = vote_result(incoming, votes)
    second = vote_result(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
