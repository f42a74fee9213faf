"""A candidate's own vote, while its disk is slow (§5.1, §5.2: a term has at most one leader)."""

from __future__ import annotations

import random

from aspen.raft.memory import MemoryStorage
from aspen.raft.messages import (
    LOCAL_APPEND_THREAD,
    ConfState,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
)
from aspen.raft.rawnode import RaftConfig, RawNode, Role


def _candidate() -> tuple[RawNode, Message]:
    """Node 1 of three as candidate of term 2, and what its disk has still to do."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(metadata=SnapshotMetadata(ConfState((1, 2, 3)), index=1, term=1)))
    storage.hard_state = HardState(term=1, commit=1)
    raw = RawNode(
        RaftConfig(
            node_id=1,
            storage=storage,
            rng=random.Random(1),
            election_ticks=10,
            heartbeat_ticks=1,
            applied=1,
            async_storage_writes=True,
        )
    )
    raw.campaign()
    append = next(m for m in raw.ready().messages if m.to == LOCAL_APPEND_THREAD)
    assert (append.term, append.vote) == (2, 1)
    return raw, append


def _grant(raw: RawNode, voter: int) -> None:
    raw.step(Message(MessageType.VOTE_RESP, to=1, sender=voter, term=2))


def test_others_votes_alone_make_no_leader() -> None:
    """Else it could lead, crash before its disk hears of the term, and win the same term again."""
    raw, _ = _candidate()
    _grant(raw, 2)
    _grant(raw, 3)
    assert raw.role is Role.CANDIDATE
    assert not raw.has_ready()


def test_it_leads_as_soon_as_its_disk_has_its_vote() -> None:
    raw, append = _candidate()
    _grant(raw, 2)
    _grant(raw, 3)
    for response in append.responses:
        raw.step(response)
    assert raw.role is Role.LEADER


def test_its_own_vote_counts_as_one_of_the_quorum() -> None:
    raw, append = _candidate()
    _grant(raw, 2)
    assert raw.role is Role.CANDIDATE
    for response in append.responses:
        raw.step(response)
    assert raw.role is Role.LEADER
