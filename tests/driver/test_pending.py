"""What waits on Raft always ends, and says truthfully whether the write may have happened."""

from __future__ import annotations

import asyncio

import pytest

from aspen.errors import NoLeader, OutcomeUnknown, Overloaded
from aspen.raft import pending
from aspen.raft.pending import PendingProposals, PendingReads

INCARNATION = b"12345678"


def proposals() -> PendingProposals:
    return PendingProposals(asyncio.get_running_loop(), INCARNATION)


def reads() -> PendingReads:
    return PendingReads(asyncio.get_running_loop(), INCARNATION)


async def test_a_proposal_resolves_when_it_is_applied() -> None:
    waiting = proposals()
    future = waiting.add(b"command")
    batch = waiting.take()
    assert [command for _, command in batch] == [b"command"]
    assert waiting.take() == []
    waiting.proposed(batch, term=3)
    waiting.applied(batch[0][0], "result")
    assert await future == "result"
    assert len(waiting) == 0


async def test_never_proposed_is_no_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 1)
    waiting = proposals()
    with pytest.raises(NoLeader):
        await waiting.add(b"command")
    assert waiting.take() == []  # and it never will be


async def test_proposed_but_not_confirmed_is_outcome_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 1)
    waiting = proposals()
    future = waiting.add(b"command")
    waiting.proposed(waiting.take(), term=1)
    with pytest.raises(OutcomeUnknown):
        await future


async def test_a_change_of_leader_ends_the_wait_of_older_terms_only() -> None:
    waiting = proposals()
    old, new, unproposed = waiting.add(b"old"), None, None
    waiting.proposed(waiting.take(), term=1)
    new = waiting.add(b"new")
    waiting.proposed(waiting.take(), term=2)
    unproposed = waiting.add(b"waits for a leader")
    waiting.term_applied(2)
    with pytest.raises(OutcomeUnknown, match="leader changed"):
        await old
    assert not new.done()
    assert not unproposed.done()
    new.cancel()
    unproposed.cancel()
    waiting.close()


async def test_what_the_core_refused_was_not_written() -> None:
    waiting = proposals()
    future = waiting.add(b"command")
    waiting.refuse(waiting.take(), Overloaded("too much"))
    with pytest.raises(Overloaded):
        await future


async def test_too_many_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_PENDING_PROPOSALS", 2)
    waiting = proposals()
    futures = [waiting.add(b"1"), waiting.add(b"2")]
    with pytest.raises(Overloaded):
        waiting.add(b"3")
    for future in futures:
        future.cancel()
    waiting.close()


async def test_one_turn_takes_a_bounded_batch_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_MAX_PROPOSALS_PER_TURN", 2)
    waiting = proposals()
    futures = [waiting.add(b"%d" % i) for i in range(5)]
    batches = [[command for _, command in waiting.take()] for _ in range(4)]
    assert batches == [[b"0", b"1"], [b"2", b"3"], [b"4"], []]
    for future in futures:
        future.cancel()
    waiting.close()


async def test_a_proposer_that_gave_up_disturbs_nothing() -> None:
    waiting = proposals()
    future = waiting.add(b"command")
    batch = waiting.take()
    waiting.proposed(batch, term=1)
    future.cancel()
    waiting.applied(batch[0][0], "result")
    assert len(waiting) == 0


async def test_a_read_waits_for_confirmation_and_then_for_application() -> None:
    waiting = reads()
    future = waiting.add()
    context = waiting.next_round()
    assert context is not None
    waiting.confirmed(context, index=7, applied_index=5)
    waiting.applied(6)
    assert not future.done()
    waiting.applied(7)
    await future


async def test_reads_that_arrive_during_a_round_wait_for_the_next() -> None:
    """A read may not use a confirmation that began before the read did (thesis §6.4)."""
    waiting = reads()
    first = waiting.add()
    one = waiting.next_round()
    late = waiting.add()
    assert waiting.next_round() is None
    assert one is not None
    waiting.confirmed(one, index=1, applied_index=1)
    await first
    assert not late.done()
    two = waiting.next_round()
    assert two not in (None, one)
    assert two is not None
    waiting.confirmed(two, index=1, applied_index=1)
    await late


async def test_a_lost_round_is_asked_again_under_a_new_context() -> None:
    waiting = reads()
    future = waiting.add()
    lost = waiting.next_round()
    waiting.retry()
    again = waiting.next_round()
    assert lost is not None
    assert again not in (None, lost)
    waiting.confirmed(lost, index=1, applied_index=9)  # too late: nobody waits for it
    assert not future.done()
    assert again is not None
    waiting.confirmed(again, index=1, applied_index=9)
    await future


async def test_an_unconfirmed_read_ends_as_no_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_READ_MS", 1)
    waiting = reads()
    with pytest.raises(NoLeader):
        await waiting.add()


async def test_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_PENDING_READS", 1)
    waiting = reads()
    future = waiting.add()
    with pytest.raises(Overloaded):
        waiting.add()
    waiting.close()
    with pytest.raises(NoLeader):
        await future
    await asyncio.sleep(0)
    waiting.add().cancel()
