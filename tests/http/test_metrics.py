"""`GET /metrics`, and the counting behind it. A whole node's metrics: tests/e2e/test_e2e_metrics.py."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import dns.message
import dns.rcode
import pytest
from http_fakes import Client, Serve
from prometheus_client.parser import text_string_to_metric_families

from aspen.dns.answers import Answers
from aspen.dns.tally import LATENCY_BOUNDS_NS, LATENCY_BUCKETS, ResponseTally
from aspen.dns.udp_answers import COUNTERS, RCODE_WORDS, Counter, latency_row
from aspen.metric_shapes import cumulative
from aspen.raft.measures import CommitTimes, LeaderTimes
from aspen.raft.messages import Entry
from aspen.state.status_page import COUNTERS_PER_WORKER, PULSE

NXDOMAIN_REPLY = bytes([0, 7, 0x84, 3]) + bytes(8)


async def test_the_route_serves_the_text_format_to_admins(client: Client, serve: Serve) -> None:
    answer = await client.get("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    assert answer.headers["cache-control"] == "no-store"
    (family,) = text_string_to_metric_families(answer.body.decode())
    assert (family.name, family.samples[0].value) == ("aspen_zones", 3)
    assert (await client.get("/metrics?name=x")).error == (400, "bad_query")

    guarded = Client((await serve(admin_token="a secret of the operators")).address)
    assert (await guarded.get("/metrics")).status == 401
    await guarded.close()


async def test_the_route_is_described(client: Client) -> None:
    described = (await client.get("/openapi.json")).json["paths"]["/metrics"]["get"]
    assert set(described["responses"]["200"]["content"]) == {"text/plain"}
    assert set(described["responses"]) >= {"401", "403"}


@pytest.mark.parametrize(
    ("elapsed_ns", "bucket"),
    [
        (0, 0),
        (25_000, 0),
        (25_001, 1),
        (1_000_000, 5),
        (1_000_000_000, 13),
        (1_000_000_001, 14),
        (10**15, 14),
    ],
)
def test_a_time_belongs_to_the_first_bucket_that_holds_it(elapsed_ns: int, bucket: int) -> None:
    tally = ResponseTally()
    tally.note(NXDOMAIN_REPLY, elapsed_ns)
    assert tally.buckets[3][bucket] == sum(map(sum, tally.buckets)) == 1
    assert (tally.rcodes[3], sum(tally.rcodes)) == (1, 1)
    assert tally.sums_ns[3] == sum(tally.sums_ns) == elapsed_ns


def test_buckets_grow_and_end_in_infinity() -> None:
    shown = cumulative([bound / 1e9 for bound in LATENCY_BOUNDS_NS], [1] * LATENCY_BUCKETS)
    assert [count for _, count in shown] == list(range(1, LATENCY_BUCKETS + 1))
    bounds = [float(bound) for bound, _ in shown]
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[-2], bounds[-1]) == (25e-6, LATENCY_BOUNDS_NS[-1] / 1e9, float("inf"))


def test_a_worker_has_room_for_its_counters() -> None:
    rows = sorted(map(latency_row, RCODE_WORDS.values()))
    assert rows[0] == Counter.LATENCY_0
    assert {after - before for before, after in pairwise(rows)} == {LATENCY_BUCKETS + 1}
    assert rows[-1] + LATENCY_BUCKETS + 1 == COUNTERS <= PULSE < COUNTERS_PER_WORKER


async def test_an_answer_of_several_messages_counts_once() -> None:
    view: Any = None  # nothing is looked up
    answers = Answers(view)
    sent: list[bytes] = []

    async def send(message: bytes) -> None:
        sent.append(message)

    noting = answers.noting(send)
    assert sum(answers.tally.rcodes) == 0
    for _ in range(3):
        await noting(NXDOMAIN_REPLY)
    assert sent == [NXDOMAIN_REPLY] * 3
    assert (sum(answers.tally.buckets[3]), answers.tally.rcodes[3]) == (1, 1)


def reply_with(code: int) -> bytes:
    message = dns.message.make_response(dns.message.make_query("_iroh.example.", "TXT", use_edns=0))
    message.set_rcode(dns.rcode.Rcode(code))
    return message.to_wire()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 7, 16, 23])
def test_response_codes_beyond_the_header_are_told_apart(code: int) -> None:
    tally = ResponseTally()
    tally.note(reply_with(code), 0)
    assert (tally.rcodes[code], sum(tally.rcodes)) == (1, 1)


def test_commits_are_timed_from_append_to_commitment() -> None:
    now = 0.0
    times = CommitTimes(lambda: now)
    times.note([Entry(index=7, term=1), Entry(index=8, term=1)], True, 6)
    now = 0.002
    times.note([Entry(index=9, term=1)], True, 7)
    assert sum(times.seconds.buckets) == 0  # the second of the two isn't committed yet
    now = 0.003
    times.note([], True, 9)
    assert sum(times.seconds.buckets) == 3
    assert times.seconds.sum == pytest.approx(2 * 0.003 + 0.001)
    times.note([Entry(index=10, term=1)], True, 9)
    times.note([], False, 9)  # it leads no more: what becomes of that is another's to tell
    times.note([], True, 10)
    assert sum(times.seconds.buckets) == 3


def test_the_time_without_a_leader_is_from_one_to_the_next() -> None:
    now = 5.0
    times = LeaderTimes(lambda: now)
    times.note(0)
    now = 100.0  # it waited to be taken into a cluster
    times.note(2)
    times.note(2)
    assert (times.changes, sum(times.without_seconds.buckets)) == (1, 0)
    times.note(0)
    now = 100.3
    times.note(0)
    times.note(3)
    times.note(2)  # an election that this node heard of when it was over
    assert (times.changes, sum(times.without_seconds.buckets)) == (3, 2)
    assert times.without_seconds.sum == pytest.approx(0.3)
    times.note(0)
    times.note(2)  # the same again
    assert times.changes == 4
