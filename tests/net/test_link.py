"""The way to one peer: how long it waits after a failure, and how much it lets wait."""

from __future__ import annotations

import random
from unittest.mock import Mock

import pytest

from aspen.errors import InvariantViolation
from aspen.limits import (
    NET_RECONNECT_MAX_MS,
    NET_RECONNECT_MIN_MS,
    NET_UNREACHABLE_MS,
    RAFT_FRAME_BYTES,
)
from aspen.net.link import Link


def test_the_wait_grows_with_jitter_between_its_bounds():
    rng = random.Random(1)
    waits = []
    for _ in range(200):
        link = Link(b"P" * 32)
        for _ in range(12):
            link.lost(1000.0, rng)
        waits.append(round((link.retry_at - 1000.0) * 1000, 3))
    assert NET_RECONNECT_MIN_MS <= min(waits) < max(waits) <= NET_RECONNECT_MAX_MS
    assert max(waits) - min(waits) > NET_RECONNECT_MAX_MS / 2  # peers don't come back in step


def test_the_first_wait_is_the_shortest():
    link = Link(b"P" * 32)
    link.lost(0.0, random.Random(1))
    assert link.retry_at * 1000 == NET_RECONNECT_MIN_MS


def test_a_sign_of_life_ends_the_wait():
    link = Link(b"P" * 32)
    for _ in range(8):
        link.lost(5.0, random.Random(1))
    link.forgive()
    assert link.retry_at == 0.0
    link.lost(5.0, random.Random(1))
    assert round((link.retry_at - 5.0) * 1000) == NET_RECONNECT_MIN_MS


def test_what_waited_for_a_lost_dial_is_lost():
    link = Link(b"P" * 32)
    assert link.offer([b"x"])
    link.lost(0.0, random.Random(1))
    assert (link.waiting, link.waiting_bytes) == ([], 0)


def test_a_frame_no_peer_would_take_is_a_bug_here():
    link = Link(b"P" * 32)
    assert link.offer([bytes(RAFT_FRAME_BYTES)])
    with pytest.raises(InvariantViolation):
        link.offer([bytes(RAFT_FRAME_BYTES + 1)])


def test_unreachable_is_said_once_in_a_while():
    link = Link(b"P" * 32)
    times = [link.report_due(ms / 1000) for ms in range(1000, 2000, 10)]
    assert sum(times) == 1000 / NET_UNREACHABLE_MS


def test_the_loss_of_a_connection_is_said_however_soon_it_comes():
    link = Link(b"P" * 32)
    assert link.report_due(1.0)
    assert not link.report_due(1.01)
    link.opened(Mock())
    assert link.report_due(1.02)
