"""Request ids: whose they are, how many are followed, and what is said of slow requests."""

from __future__ import annotations

import structlog

from aspen.http.traces import Tracing
from aspen.limits import SLOW_LINES, TRACES
from aspen.raft.writer import WriteJob
from aspen.slow import SlowLog
from aspen.tracing import RequestIds, Trace


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
    trace = Trace("id", False, 10.0)
    assert trace.stages_ms(10.5) == {"answer": 500.0}
    trace.received_s, trace.verified_s, trace.queued_s = 10.25, 10.5, 10.75
    trace.written = WriteJob(handed_s=11.0, begun_s=11.125, applied_s=11.25, durable_s=12.0)
    assert trace.stages_ms(12.25) == {
        "receive": 250.0,
        "verify": 250.0,
        "queue": 250.0,
        "commit": 250.0,
        "writer": 125.0,
        "apply": 125.0,
        "sync": 750.0,
        "answer": 250.0,
    }


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
        trace.began_s -= 0.002
        tracing.answered(trace, "PUT", "/v1/kv/" + "k" * 500, 200)
        tracing.answered(tracing.begin(None), "GET", "/quick", 200)
    assert [line["event"] for line in told] == ["request answered", "slow operation"]
    assert all(line["request_id"] == "one" and len(line["path"]) == 200 for line in told)
