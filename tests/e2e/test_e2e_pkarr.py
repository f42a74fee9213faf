"""The relay of real nodes: what iroh's server promises, unpublishing, expiring, watching through kills."""

from __future__ import annotations

import http.client
import json
import threading
import time
from http.client import HTTPException
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from clients import HOST, Published, now_us, sign, texts
from cluster import Cluster, NodeProcess, running
from processes import wait_until

from aspen.identity import Identity
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

# --- what iroh-dns-server's own tests check ---------------------------------------------------


def resolved(node: NodeProcess, name: str, rtype: str) -> list[str]:
    """The data of the records of that name and type, in the order in which they came."""
    answer = node.dig(name, rtype)
    assert answer.flags & dns.flags.AA
    return [
        item.to_text() for rrset in answer.answer if rrset.name.to_text() == name.lower() for item in rrset
    ]


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A node whose origins are the root and a name below it."""
    settings = {"ASPEN_DNS_SERVER_ORIGINS": ".,dns.example"}
    with running(tmp_path_factory.mktemp("origins"), 1, settings=settings) as cluster:
        yield cluster  # type: ignore[misc]  # a fixture is its generator


@pytest.mark.parametrize("origin", ["", "dns.example."])
def test_every_shape_of_packet_resolves_under_every_origin(origins: Cluster, origin: str) -> None:
    node = origins.node(1)
    identity = Identity.generate()
    records = [
        '@ TXT "hi0"',
        '_hello TXT "hi1"',
        '_hello.world TXT "hi2"',
        '_multiple TXT "hi4"',
        '_multiple TXT "hi3"',
        "@ A 127.0.0.1",
        "foo.bar.baz AAAA ::1",
    ]
    # Not by dnspython, which shuffles the records of a set.
    message = build_message(identity.endpoint_id, records)
    packet = Published(identity, SignedPacket.sign(identity, message, now_us()).payload, ())
    assert node.put(packet).status == 204
    base = f"{packet.z32}.{origin}"
    assert resolved(node, base, "TXT") == ['"hi0"']
    assert resolved(node, f"_hello.{base}", "TXT") == ['"hi1"']
    assert resolved(node, f"_hello.world.{base}", "TXT") == ['"hi2"']
    assert resolved(node, f"_multiple.{base}", "TXT") == ['"hi4"', '"hi3"']  # as they were signed
    assert resolved(node, base, "A") == ["127.0.0.1"]
    assert resolved(node, f"foo.bar.baz.{base}", "AAAA") == ["::1"]
    assert node.dig(f"bar.baz.{base}", "AAAA").rcode() == dns.rcode.NOERROR  # it exists, empty
    assert node.dig(f"nothing.{base}", "AAAA").rcode() == dns.rcode.NXDOMAIN


# --- unpublishing -----------------------------------------------------------------------------


def unpublication(identity: Identity) -> Published:
    """A packet without answers."""
    message = dns.message.Message(id=0)
    message.flags = dns.flags.Flag(dns.flags.QR | dns.flags.AA)
    return Published(identity, SignedPacket.sign(identity, message.to_wire(), now_us()).payload, ())


def gone(node: NodeProcess, packet: Published) -> bool:
    """From the relay and from DNS."""
    return (
        node.request("GET", packet.path).status == 404
        and node.dig(packet.name()).rcode() == dns.rcode.NXDOMAIN
    )


def test_what_was_unpublished_or_deleted_is_gone_everywhere_and_does_not_return(cluster: Cluster) -> None:
    one, two, three = cluster
    identity = Identity.generate()
    first = sign("first", identity=identity)
    assert one.put(first).status == 204
    assert two.put(unpublication(identity)).status == 204
    for node in cluster:
        wait_until(lambda node=node: gone(node, first), f"{node} has it unpublished")
        answer = node.put(first)
        assert (answer.status, answer.json["error"]) == (409, "older")
    second = sign("second", identity=identity)
    assert three.put(second).status == 204
    for node in cluster:
        wait_until(lambda node=node: node.resolves(second), f"{node} has the new one")
    assert two.request("DELETE", f"/v1/packets/{second.z32}").status == 204
    for node in cluster:
        wait_until(lambda node=node: gone(node, second), f"{node} has it deleted")
        assert node.put(second).status == 409
    assert one.put(sign("third", identity=identity)).status == 204
    cluster.wait_same_state()


# --- retention --------------------------------------------------------------------------------

RETENTION_S = 2
SHORT = {"ASPEN_PKARR_RETENTION_SECS": str(RETENTION_S), "ASPEN_PKARR_TOMBSTONE_SECS": "3"}


def test_packets_expire_after_they_were_last_seen_and_tombstones_after_that(tmp_path: Path) -> None:
    with running(tmp_path, 1, settings=SHORT) as cluster:
        node = cluster.node(1)
        watcher = Watcher(cluster.nodes, "/v1/packets/watch/all?from=0")
        kept, left, deleted = sign("kept"), sign("left"), sign("deleted")
        for packet in (kept, left, deleted):
            assert node.put(packet).status == 204
        assert node.request("DELETE", f"/v1/packets/{deleted.z32}").status == 204
        until = time.monotonic() + RETENTION_S * 1.5
        while time.monotonic() < until:  # it is published over and over, the very same
            assert node.put(kept).status == 204
            time.sleep(0.1)
        assert node.resolves(kept)
        assert gone(node, left)
        wait_until(
            lambda: ("expired", (left.z32,)) in watcher.seen(), "the expired packet is removed, and told of"
        )
        assert node.request("GET", f"/v1/packets/{left.z32}").status == 404
        wait_until(
            lambda: node.request("GET", f"/v1/packets/{deleted.z32}").status == 404, "the tombstone goes too"
        )
        assert not any(kind == "expired" and deleted.z32 in keys for kind, keys in watcher.seen())
        wait_until(lambda: gone(node, kept), "nobody publishes it any more")
        assert node.put(left).status == 204  # as a relay that has forgotten it
        assert node.resolves(left)
        watcher.stop()


# --- watching ---------------------------------------------------------------------------------


class Watcher:
    """Follows a stream of events in a thread, from node to node: whenever it breaks, it goes on at the
    next one with the last id it saw."""

    def __init__(self, nodes: list[NodeProcess], path: str) -> None:
        self.events: list[tuple[int, str, dict[str, object]]] = []
        self.connections = 0
        self.problem: str | None = None
        self._nodes = nodes
        self._path = path
        self._last: int | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        turn = 0
        while not self._stopping and self.problem is None:
            node = self._nodes[turn % len(self._nodes)]
            turn += 1
            try:
                self._read(node)
            except (OSError, HTTPException):
                time.sleep(0.05)

    def _read(self, node: NodeProcess) -> None:
        connection = http.client.HTTPConnection(HOST, node.http_port, timeout=2)
        try:
            headers = {} if self._last is None else {"Last-Event-ID": str(self._last)}
            connection.request("GET", self._path, headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                self.problem = f"{node} answered {response.status}: {response.read()!r}"
                return
            self.connections += 1
            fields: dict[str, str] = {}
            while (line := response.readline()) and not self._stopping:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    self._take(fields)
                    fields = {}
                else:
                    fields = {}
        finally:
            connection.close()

    def _take(self, fields: dict[str, str]) -> None:
        index = int(fields["id"])
        if self._last is not None and index < self._last:
            self.problem = f"went back from {self._last} to {index}"
        self._last = index
        if fields["event"] != "progress":
            self.events.append((index, fields["event"], json.loads(fields["data"])))

    def seen(self) -> set[tuple[str, tuple[str, ...]]]:
        return {(kind, tuple(data["keys"])) for _, kind, data in self.events}  # type: ignore[arg-type]

    def timestamps(self) -> list[int]:
        return [int(data["timestamp_us"]) for _, kind, data in self.events if kind == "stored"]  # type: ignore[call-overload]

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(5)


def test_a_watcher_misses_nothing_and_hears_nothing_twice_while_nodes_are_killed(cluster: Cluster) -> None:
    mine, other = Identity.generate(), Identity.generate()
    start = cluster.wait_caught_up() + 1
    one = Watcher(cluster.nodes, f"/v1/packets/watch?key={mine.z32}&from={start}")
    every = Watcher(cluster.nodes[::-1], f"/v1/packets/watch/all?from={start}")
    acknowledged: list[int] = []
    attempted: set[int] = set()
    for round_number in range(3):
        for number in range(15):
            packet = sign(f"{round_number}.{number}", identity=mine)
            timestamp_us = int.from_bytes(packet.payload[64:72], "big")
            attempted.add(timestamp_us)
            try:
                if cluster.living[number % len(cluster.living)].put(packet).status == 204:
                    acknowledged.append(timestamp_us)
                cluster.living[0].put(sign("noise", identity=other))
            except (OSError, HTTPException):
                pass  # the outcome is unknown
            if number == 5 and round_number < 2:
                victim = cluster.leader() if round_number == 0 else cluster.living[0]
                victim.kill()
                for node in cluster:
                    if not node.alive:
                        time.sleep(0.3)  # the others go on without it
                        node.start()
                        node.wait_ready()
    assert len(acknowledged) > 20
    for watcher in (one, every):
        wait_until(
            lambda watcher=watcher: (
                (watcher.timestamps() or [0])[-1] >= acknowledged[-1] or watcher.problem is not None
            ),
            "the watcher heard the last",
        )
        watcher.stop()
        assert watcher.problem is None
        told = [index for index, _, _ in watcher.events]
        assert told == sorted(set(told))  # none twice, in order
    heard = one.timestamps()
    assert set(acknowledged) <= set(heard) <= attempted  # none lost, none made up
    assert one.connections > 1
    assert all(data["keys"] == [mine.z32] for _, _, data in one.events)
    assert [
        t
        for (_, _, data), t in zip(every.events, every.timestamps(), strict=True)
        if data["keys"] == [mine.z32]
    ] == heard
    assert texts(cluster.node(1).dig(f"_iroh.{mine.z32}.aspen.local."))
