"""Nodes are killed with -9; what was acknowledged stays, and what wasn't is never claimed."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from clients import HOST, Published, sign, texts
from cluster import Cluster, NodeProcess
from load import missing_at, put_all
from processes import session_members, wait_until

ROUNDS = int(os.environ.get("ASPEN_TEST_ROUNDS", "10"))
BURST = 200


def write_succeeds(node: NodeProcess, packet: Published) -> bool:
    """Whether a PUT is acknowledged now. Safe to repeat: the same packet is the same write."""
    answer = node.put(packet)
    assert answer.status in (204, 503), answer
    if answer.status == 503:
        assert set(answer.json) >= {"error", "reason"}
    return answer.status == 204


def test_survivors_of_a_leaders_death_read_at_once_and_soon_write(cluster: Cluster) -> None:
    before = sign("written=before")
    assert cluster.nodes[0].put(before).status == 204
    assert cluster.nodes[0].request("PUT", "/v1/kv/before", b"1").status in (200, 201, 204)
    cluster.wait_stored([before])
    cluster.wait_caught_up()
    leader, survivors = cluster.leader(), cluster.followers()

    leader.kill()
    killed = time.monotonic()
    for node in survivors:  # the election has not begun
        assert node.resolves(before)
        assert node.stored(before)
        stale = node.request(
            "GET", "/v1/kv/before?consistency=stale", headers={"Accept": "application/octet-stream"}
        )
        assert (stale.status, stale.body) == (200, b"1")
    print(f"both survivors read {time.monotonic() - killed:.3f} s after the kill")

    after = sign("written=after")
    for node in survivors:
        wait_until(lambda node=node: write_succeeds(node, after), f"{node} takes writes", timeout_s=10)
    print(f"both survivors wrote {time.monotonic() - killed:.2f} s after the kill")
    assert cluster.leader() in survivors
    cluster.wait_stored([before, after])

    leader.start()
    cluster.wait_ready()
    cluster.wait_caught_up()
    assert leader.stored(after)
    assert leader.resolves(after)


def test_a_killed_nodes_workers_end_with_it(cluster: Cluster) -> None:
    follower = cluster.followers()[0]
    assert follower.workers_alive()
    session = follower.pid
    follower.kill()
    wait_until(lambda: not session_members(session), "the workers have noticed", timeout_s=30)


def test_everything_acknowledged_survives_the_death_of_all_three(cluster: Cluster) -> None:
    packets = [sign(f"number={i}") for i in range(30)]
    for i, packet in enumerate(packets):
        assert cluster.nodes[i % 3].put(packet).status == 204
        key = cluster.nodes[(i + 1) % 3].request("PUT", f"/v1/kv/survivor-{i}", str(i).encode())
        assert key.status in (200, 201, 204)
    for node in cluster:  # nobody waits for anybody
        node.kill()
    cluster.restore()
    cluster.wait_stored(packets)
    for node in cluster:
        assert all(node.resolves(packet) for packet in packets)
        for i in range(len(packets)):
            got = node.request("GET", f"/v1/kv/survivor-{i}", headers={"Accept": "application/octet-stream"})
            assert (got.status, got.body) == (200, str(i).encode())


def test_a_minority_never_acknowledges_and_goes_on_answering(cluster: Cluster) -> None:
    known = sign("known=yes")
    assert cluster.nodes[0].put(known).status == 204
    cluster.wait_stored([known])
    leader, (survivor, other) = cluster.leader(), cluster.followers()
    leader.kill()
    other.kill()

    def refused(method: str, path: str, body: bytes | None = None) -> None:
        began = time.monotonic()
        answer = survivor.request(method, path, body)
        took = time.monotonic() - began
        assert answer.status == 503, (method, path, answer)
        assert set(answer.json) >= {"error", "reason"}
        assert answer.headers["content-type"].startswith("application/json")
        assert took <= 5.0

    packets = [sign(f"attempt={attempt}") for attempt in range(3)]
    with ThreadPoolExecutor() as threads:
        pending = [threads.submit(refused, "PUT", packet.path, packet.payload) for packet in packets]
        pending.append(threads.submit(refused, "PUT", "/v1/kv/minority", b"no"))
        pending.append(threads.submit(refused, "GET", "/v1/kv/minority"))  # linearizable by default
        while not all(future.done() for future in pending):  # it answers what it knows all the while
            assert survivor.resolves(known)
            time.sleep(0.05)
        for future in pending:
            future.result()
    assert survivor.request("GET", "/v1/kv/minority?consistency=stale").status == 404
    assert survivor.status() is not None
    assert not survivor.ready()
    assert survivor.resolves(known)
    assert texts(survivor.dig(known.name(), "TXT", tcp=True)) == list(known.texts)
    assert survivor.stored(known)


def test_a_leader_without_followers_never_acknowledges(cluster: Cluster) -> None:
    """It believes in itself for another election timeout: that is when a false 204 could slip out."""
    leader = cluster.leader()
    for node in cluster.followers():
        node.kill()
    answer = leader.put(sign("alone=yes"))
    assert answer.status == 503, answer
    assert set(answer.json) >= {"error", "reason"}


async def test_200_puts_in_flight_while_the_leader_dies_ten_times(cluster: Cluster) -> None:
    """Every 204 is readable afterwards on every node."""
    rng = random.Random(2)
    acknowledged: list[Published] = []
    in_flight = refused = broken = 0
    for number in range(ROUNDS):
        packets = [sign(f"round={number}", f"put={i}") for i in range(BURST)]
        leader = cluster.leader()
        outcome = await put_all(
            packets, cluster.nodes, kill_after=rng.randrange(1, BURST // 2), kill=leader.kill
        )
        assert not leader.alive
        assert {status for status, _ in outcome.refused} <= {503}, outcome.refused
        assert all(reason for _, reason in outcome.refused)
        assert outcome.slowest_s <= 5.5  # every client hears within five seconds
        acknowledged += outcome.acknowledged
        in_flight += outcome.in_flight_at_kill
        refused += len(outcome.refused)
        broken += outcome.broken
        cluster.restore()
        cluster.wait_caught_up()
        for node in cluster:
            assert await missing_at(node, outcome.acknowledged) == [], f"round {number}, {node}"
    print(
        f"{len(acknowledged)} acknowledged, {refused} refused, {broken} broken off; "
        f"{in_flight} were in flight at the ten kills"
    )
    assert in_flight >= ROUNDS * BURST // 3
    for node in cluster:
        assert await missing_at(node, acknowledged) == []
    cluster.wait_same_state()


async def test_puts_in_flight_while_all_three_die(cluster: Cluster) -> None:
    """The disk is all that is left of them: what was acknowledged was on it."""

    def kill_all() -> None:
        for node in cluster:
            node.process.kill() if node.process else None  # all of them, before anyone is waited for
        for node in cluster:
            node.kill()

    in_flight = 0
    for number in range(3):
        packets = [sign(f"round={number}", f"put={i}") for i in range(BURST)]
        outcome = await put_all(packets, cluster.nodes, kill_after=1 + 30 * number, kill=kill_all)
        assert not cluster.living
        in_flight += outcome.in_flight_at_kill
        cluster.restore()
        cluster.wait_caught_up()
        for node in cluster:
            assert await missing_at(node, outcome.acknowledged) == [], f"round {number}, {node}"
    assert in_flight >= BURST // 2
    cluster.wait_same_state()


def test_a_leader_that_slept_does_not_answer_from_the_past(cluster: Cluster) -> None:
    """Resumed, it still believes in itself: a read that reached it asleep must be linearizable still."""
    leader, others = cluster.leader(), cluster.followers()
    assert leader.request("PUT", "/v1/kv/slept", b"old").status in (200, 201, 204)
    os.kill(leader.pid, signal.SIGSTOP)
    try:

        def written() -> bool:
            return others[0].request("PUT", "/v1/kv/slept", b"new").status in (200, 201, 204)

        wait_until(written, "the others take writes")
        waiting = []
        for consistency in ("consistent", "leader"):
            connection = socket.create_connection((HOST, leader.http_port), timeout=10)
            lines = (
                f"GET /v1/kv/slept?consistency={consistency} HTTP/1.1",
                f"Host: {HOST}",
                "Accept: application/octet-stream",
                "Connection: close",
            )
            connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            waiting.append(connection)
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    for connection in waiting:
        with connection:
            answer = b"".join(iter(lambda connection=connection: connection.recv(4_096), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 200"):
            assert body == b"new"
        else:
            assert head.startswith(b"HTTP/1.1 503"), answer
    cluster.wait_ready()
    got = leader.request("GET", "/v1/kv/slept", headers={"Accept": "application/octet-stream"})
    assert (got.status, got.body) == (200, b"new")
