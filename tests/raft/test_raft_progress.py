"""Progress and its window (§5.3; thesis §10.2.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import InvariantViolation
from aspen.raft.progress import NO_LIMIT, Inflights, Progress, ReplicationState


def make(match: int = 3, next_index: int = 5, *, window: int = 4, window_bytes: int = NO_LIMIT) -> Progress:
    return Progress(next_index, Inflights(window, window_bytes), is_learner=False, match=match)


def test_a_probe_is_one_message_at_a_time() -> None:
    progress = make()
    progress.sent_entries(2, 20)
    assert progress.paused
    assert progress.next == 5
    assert progress.maybe_update(6)
    assert not progress.paused


def test_replication_runs_ahead_until_the_window_is_full() -> None:
    progress = make()
    progress.become_replicate()
    for _ in range(4):
        assert not progress.paused
        progress.sent_entries(1, 10)
    assert progress.next == 8
    assert progress.paused
    assert progress.inflights.full
    progress.maybe_update(5)
    progress.inflights.free_up_to(5)
    assert not progress.paused
    assert len(progress.inflights) == 2


def test_the_window_is_bounded_by_bytes_too() -> None:
    progress = make(window_bytes=100)
    progress.become_replicate()
    progress.sent_entries(1, 60)
    assert not progress.paused
    progress.sent_entries(1, 60)
    assert progress.paused
    with pytest.raises(InvariantViolation):
        progress.inflights.add(9, 1)


def test_a_follower_awaiting_a_snapshot_is_sent_nothing() -> None:
    progress = make()
    progress.become_snapshot(10)
    assert progress.paused
    assert progress.next == 11
    with pytest.raises(InvariantViolation):
        progress.sent_entries(1, 1)


def test_a_delivered_snapshot_counts_and_a_failed_one_does_not() -> None:
    delivered, failed = make(), make()
    for progress in (delivered, failed):
        progress.become_snapshot(10)
    failed.pending_snapshot = 0
    for progress in (delivered, failed):
        progress.become_probe()
    assert (delivered.next, failed.next) == (11, 4)


@pytest.mark.parametrize(
    ("state", "rejected", "hint", "expected", "next_index"),
    [
        (ReplicationState.PROBE, 4, 2, True, 4),
        (ReplicationState.PROBE, 4, 9, True, 4),
        (ReplicationState.PROBE, 9, 2, False, 5),
        (ReplicationState.REPLICATE, 3, 1, False, 5),
        (ReplicationState.REPLICATE, 4, 1, True, 4),
    ],
    ids=["the probe", "a hint past it", "another probe", "at match", "after match"],
)
def test_a_refusal_steps_back_but_never_to_match(
    state: ReplicationState, rejected: int, hint: int, expected: bool, next_index: int
) -> None:
    """Reordered refusals never probe below match; a hint is never taken for one (CCF #5325)."""
    progress = make()
    progress.state = state
    assert progress.maybe_decrease(rejected, hint) is expected
    assert (progress.match, progress.next) == (3, next_index)


def test_the_commit_index_is_sent_once_as_far_as_it_can_go() -> None:
    progress = make(match=3, next_index=6)
    assert progress.can_bump_commit(4)
    progress.sent_commit = 5
    assert not progress.can_bump_commit(9)
    progress.maybe_decrease(5, 3)
    assert progress.sent_commit == 3


@given(st.lists(st.tuples(st.sampled_from("suarpnf"), st.integers(0, 20)), max_size=40))
def test_match_stays_below_next_and_never_falls(steps: list[tuple[str, int]]) -> None:
    """Whatever comes, in whatever order."""
    progress = make()
    for kind, number in steps:
        match = progress.match
        if kind == "s" and not progress.paused:
            progress.sent_entries(number % 3, number)
        elif kind == "u":
            progress.maybe_update(min(number, progress.next - 1))
            progress.inflights.free_up_to(number)
        elif kind == "a" and progress.state is ReplicationState.PROBE:
            progress.become_replicate()
        elif kind == "r":
            progress.maybe_decrease(number, number // 2)
        elif kind == "p":
            progress.become_probe()
        elif kind == "n" and number > progress.match:
            progress.become_snapshot(number)
        elif kind == "f":
            progress.inflights.free_up_to(number)
        assert match <= progress.match < progress.next
        assert len(progress.inflights) <= 4


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=20), st.integers(0, 30))
def test_freeing_the_window_is_exact(sent: list[tuple[int, int]], index: int) -> None:
    window, at, kept = Inflights(100, NO_LIMIT), 0, []
    for step, size in sent:
        at += step
        window.add(at, size)
        kept.append((at, size))
    window.free_up_to(index)
    left = [size for last, size in kept if last > index]
    assert (len(window), window.bytes) == (len(left), sum(left))
    window.clear()
    assert (len(window), window.bytes) == (0, 0)
