"""A node that lags behind the log is sent a snapshot: over QUIC streams, while all goes on, whatever dies."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dns.exception
import dns.rcode
import pytest
from clients import Published, sign, texts
from cluster import Cluster, NodeProcess, running
from load import missing_at, put_all
from processes import wait_until

from aspen.identity import Identity
from aspen.limits import RAFT_COMPACT_ENTRIES, RAFT_INFLIGHT_BYTES

KEEP_ENTRIES = 20
LAG_ENTRIES = 2 * RAFT_COMPACT_ENTRIES
MEGABYTES_IN_FLIGHT = 3 * RAFT_INFLIGHT_BYTES // 2 // 1_000_000
"""More than the leader has on its way to a member that answers nothing."""
CANARY = Identity.generate()


@pytest.fixture(scope="module")
def _forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    base = tmp_path_factory.mktemp("forgetful")
    with running(base, 3, settings={"ASPEN_LOG_KEEP_ENTRIES": str(KEEP_ENTRIES)}) as cluster:
        yield cluster


@pytest.fixture
def forgetful(_forgetful: Cluster) -> Iterator[Cluster]:
    """Three nodes that keep little of their logs, shared; whatever a test kills is started again after it."""
    _forgetful.restore()
    yield _forgetful
    _forgetful.restore()


def put_packets(nodes: list[NodeProcess], count: int) -> list[Published]:
    packets = [sign(f"n={n}") for n in range(count)]
    waiting = {packet.path: packet for packet in packets}

    def all_put() -> bool:
        for packet in asyncio.run(put_all(list(waiting.values()), nodes)).acknowledged:
            del waiting[packet.path]
        return not waiting

    wait_until(all_put, f"{count} packets are stored", 30)  # whoever leads when
    return packets


def put_megabytes(node: NodeProcess, count: int) -> None:
    """As many keys as make the state so large. Random data: each time all of it is new."""
    for number in range(count):
        pairs = [
            {
                "key": base64.b64encode(f"bulk/{number:04}/{n:02}".encode()).decode(),
                "value": base64.b64encode(random.randbytes(10_000)).decode(),
            }
            for n in range(100)
        ]
        body = json.dumps({"pairs": pairs}).encode()
        wait_until(lambda body=body: node.request("POST", "/v1/kv", body).status == 200, "a batch is stored")


def events(node: NodeProcess, start: int = 0) -> list[str]:
    """What the node has logged from byte `start` on."""
    with open(node.log_path, "rb") as file:
        file.seek(start)
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    return [json.loads(line)["event"] for line in lines if line.startswith(b"{")]


class Digger:
    """Asks a node's DNS for one name again and again, and remembers every answer."""

    def __init__(self, node: NodeProcess, packet: Published) -> None:
        self.answers: list[list[str]] = []
        self.failures: list[str] = []
        self._node, self._packet = node, packet
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(0.005):
            try:
                answer = self._node.dig(self._packet.name())
            except (OSError, dns.exception.DNSException) as error:
                self.failures.append(repr(error))
                continue
            if answer.rcode() != dns.rcode.NOERROR or not answer.answer:
                self.failures.append(answer.to_text())
            else:
                self.answers.append(texts(answer))

    def saw(self) -> list[list[str]]:
        """The different answers, in the order they came."""
        return [answer for i, answer in enumerate(self.answers) if i == 0 or self.answers[i - 1] != answer]

    def __enter__(self) -> Digger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def check_whole(cluster: Cluster, node: NodeProcess, packets: list[Published]) -> None:
    """The node serves everything, over HTTP and DNS, and its state is that of the others."""
    cluster.wait_caught_up(30)
    assert asyncio.run(missing_at(node, packets)) == []
    for packet in packets[::50]:
        assert node.resolves(packet)
        assert node.dig(packet.name(), tcp=True).answer
    cluster.wait_same_state()


@contextmanager
def paused(node: NodeProcess) -> Iterator[None]:
    """The node's own process stands still; its workers do not."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


def test_a_node_that_was_down_too_long_is_sent_a_snapshot(forgetful: Cluster) -> None:
    away = forgetful.followers()[0]
    others = [node for node in forgetful if node is not away]
    before = sign("canary=before", identity=CANARY)
    assert others[0].put(before).status == 204
    forgetful.wait_caught_up()
    assert away.stop() == 0
    packets = put_packets(others, LAG_ENTRIES)
    after = sign("canary=after", identity=CANARY)
    assert others[0].put(after).status == 204
    start = away.log_path.stat().st_size
    away.start()
    forgetful.wait_ready()
    wait_until(lambda: away.stored(after), "the node has caught up", 20)
    assert "snapshot installed" in events(away, start)
    check_whole(forgetful, away, [*packets, after])
    # It is a member like any other: it leads, if it has to.
    assert away.put(sign("from=snapshot")).status == 204


def test_dns_does_not_notice_that_the_state_is_replaced(forgetful: Cluster) -> None:
    away = forgetful.followers()[0]
    others = [node for node in forgetful if node is not away]
    before = sign("canary=before", identity=CANARY)
    assert others[0].put(before).status == 204
    forgetful.wait_stored([before])
    wait_until(lambda: away.resolves(before), "the worker answers")
    workers = away.workers_alive()
    start = away.log_path.stat().st_size
    with Digger(away, before) as digger:
        with paused(away):
            put_megabytes(others[0], MEGABYTES_IN_FLIGHT)
            packets = put_packets(others, LAG_ENTRIES)
            after = sign("canary=after", identity=CANARY)
            assert others[0].put(after).status == 204
        wait_until(lambda: away.resolves(after), "the worker answers from the new state", 20)
        time.sleep(1.2)  # longer than any cached answer lives
    assert "snapshot installed" in events(away, start)
    assert not digger.failures
    assert len(digger.answers) > 100
    assert digger.saw() == [list(before.texts), list(after.texts)]
    assert away.workers_alive() == workers
    check_whole(forgetful, away, [*packets, after])
    assert [path.name for path in away.data_dir.glob("state-*")] == [
        (away.data_dir / "current").read_text().strip()
    ]


def killed_when(node: NodeProcess, due: Callable[[list[str]], bool], delay_s: float = 0.0) -> None:
    """Start the node and kill it `delay_s` after what it has logged says so."""
    start = node.log_path.stat().st_size
    node.start()
    wait_until(lambda: due(events(node, start)), "the moment to kill", 40, poll_s=0.001)
    time.sleep(delay_s)
    node.kill()


def test_a_node_killed_while_it_takes_a_snapshot_has_the_old_state_or_the_new(forgetful: Cluster) -> None:
    leader, away = forgetful.leader(), forgetful.followers()[0]
    others = [node for node in forgetful if node is not away]
    put_megabytes(leader, 40)
    before = sign("canary=before", identity=CANARY)
    assert leader.put(before).status == 204
    forgetful.wait_caught_up()
    old = away.status()["applied_index"]
    assert away.stop() == 0
    packets = put_packets(others, LAG_ENTRIES)
    put_megabytes(leader, 40)
    after = sign("canary=after", identity=CANARY)
    assert leader.put(after).status == 204

    def begun(seen: list[str]) -> bool:
        return "snapshot transfer begins" in seen

    def received(seen: list[str]) -> bool:
        return "snapshot received" in seen

    def installed(seen: list[str]) -> bool:
        return "snapshot installed" in seen

    rng = random.Random()
    moments: list[tuple[Callable[[list[str]], bool], float]] = [
        *((begun, rng.random() * limit_s) for limit_s in (0.02, 0.1, 0.2, 0.3)),
        *((received, rng.random() * limit_s) for limit_s in (0.001, 0.02, 0.05)),
        (installed, 0.0),
    ]
    was_new: list[bool] = []
    for due, delay_s in moments:
        killed_when(away, due, delay_s)
        stored = away.tables()["packets"][CANARY.endpoint_id]
        is_old, is_new = before.payload in stored, after.payload in stored
        assert is_old != is_new
        was_new.append(is_new)
        if is_new:
            break
    print(f"killed {len(was_new)} times; the new state was there: {was_new}")
    away.start()
    forgetful.wait_ready()
    wait_until(lambda: away.stored(after), "the node has caught up", 40)
    assert len(was_new) >= 3
    assert away.status()["applied_index"] > old
    assert len(list(away.data_dir.glob("state-*"))) == 1
    check_whole(forgetful, away, [*packets, after])
