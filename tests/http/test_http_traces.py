"""Request ids: whose they are, how many are followed, and what is said of slow requests."""

from __future__ import annotations

import structlog

from aspen.http.traces import Tracing
from aspen.limits import SLOW_LINES, TRACES
from aspen.slow import SlowLog
from aspen.tracing import CURRENT, RequestIds, Trace, mark


def test_only_what_looks_like_an_id_is_taken() -> None:
    ids = RequestIds("p")
    assert ids.of("a.B-9:/x=") == ("a.B-9:/x=", True)
    for other in (None, "", "a b", "a\r\nX: y", "é", "x" * 65):
        made, given = ids.of(other)
        assert not given
        assert made.startswith("p-")
    assert len({ids.of(None)[0] for _ in range(100)}) == 100


def test_strangers_can_not_have_everything_followed() -> None:
    tracing = Tracing(SlowLog())
    followed = sum(tracing.begin(f"flood-{n}").carried for n in range(5 * TRACES))
    assert TRACES <= followed < 2 * TRACES
    assert not tracing.begin(None).carried


def test_stages_add_up_to_the_whole() -> None:
    now = [10.0]
    trace = Trace("id", False, lambda: now[0])
    for stage in ("read", "wait", "read"):
        now[0] += 0.25
        trace.mark(stage)
    trace.mark("late", 10.875)
    assert trace.stages_ms() == {"read": 500.0, "wait": 250.0, "late": 125.0}
    CURRENT.set(trace)
    for _ in range(1_000):
        mark("loop")
    assert len(trace._marks) < 100
    CURRENT.set(None)
    mark("nobody's")


def test_slow_operations_are_logged_within_bounds() -> None:
    slow = SlowLog(100)
    with structlog.testing.capture_logs() as told:
        slow.note("http", 0.099)
        assert not told
        for _ in range(2 * SLOW_LINES):
            slow.note("http", 0.25, path="/x")
    assert SLOW_LINES <= len(told) < 2 * SLOW_LINES
    assert told[0] == {
        "event": "slow operation",
        "operation": "http",
        "ms": 250.0,
        "path": "/x",
        "log_level": "warning",
    }
    with structlog.testing.capture_logs() as nothing:
        SlowLog(0).note("http", 1e9)
    assert not nothing


def test_a_followed_or_slow_request_says_what_it_was() -> None:
    tracing = Tracing(SlowLog(1))
    with structlog.testing.capture_logs() as told:
        trace = tracing.begin("one")
        while trace.elapsed_s() < 0.002:
            pass
        tracing.answered(trace, "PUT", "/v1/kv/" + "k" * 500, 200)
        tracing.answered(tracing.begin(None), "GET", "/quick", 200)
    assert [line["event"] for line in told] == ["request answered", "slow operation"]
    assert all(line["request_id"] == "one" and len(line["path"]) == 200 for line in told)
