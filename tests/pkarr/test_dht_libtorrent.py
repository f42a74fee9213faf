"""A DHT of ten libtorrent nodes on loopback: an independent implementation of BEP 5 and BEP 44."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from dht_nodes import HOST, Node, running

from aspen.identity import Identity
from aspen.pkarr.dht import DhtClient
from aspen.pkarr.network import DhtNetwork
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

# One client for all tests: nodes remember who has put something with them, and ask it until they notice
# that it is gone.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with running(10) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def dht(nodes: list[Node]) -> AsyncIterator[DhtClient]:
    client = DhtClient([(HOST, nodes[0].port)])
    await client.start()
    yield client
    await client.close()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def signed(identity: Identity, *records: str, timestamp_us: int | None = None) -> SignedPacket:
    message = build_message(identity.endpoint_id, records or ('_iroh TXT "addr=192.0.2.1:1"',))
    return SignedPacket.sign(identity, message, timestamp_us or time.time_ns() // 1_000)


async def test_libtorrent_reads_what_we_put(nodes: list[Node], dht: DhtClient) -> None:
    identity = Identity.generate()
    packet = signed(identity)
    stored = await dht.put(packet)
    assert stored.nodes == 8
    for node in nodes[::3]:
        read = await asyncio.to_thread(node.get, identity.endpoint_id)
        assert read == (packet.timestamp_us, packet.signature, packet.message)


async def test_we_read_what_libtorrent_put(nodes: list[Node], dht: DhtClient) -> None:
    identity = Identity.generate()
    message = build_message(identity.endpoint_id, ["@ A 192.0.2.9"])
    sequence = await asyncio.to_thread(nodes[4].put, identity.seed, message)
    found = await dht.get(identity.endpoint_id)
    assert found.packet is not None
    assert (found.packet.message, found.packet.timestamp_us) == (message, sequence)


async def test_a_key_nobody_has_is_not_found_and_nodes_answered(dht: DhtClient) -> None:
    found = await dht.get(Identity.generate().endpoint_id)
    assert found.packet is None
    assert found.nodes_answered >= 8
    assert dht.nodes_known >= 8


async def test_the_most_recent_wins_and_an_older_one_is_not_put(dht: DhtClient) -> None:
    identity = Identity.generate()
    now_us = time.time_ns() // 1_000
    old, new = signed(identity, timestamp_us=now_us), signed(identity, timestamp_us=now_us + 1)
    await dht.put(new)
    stored = await dht.put(old)
    assert (stored.nodes, stored.newer) == (0, new)
    assert (await dht.get(identity.endpoint_id)).packet == new


async def test_nodes_themselves_refuse_an_older_one(dht: DhtClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that is put behind our own check's back."""
    identity = Identity.generate()
    now_us = time.time_ns() // 1_000
    await dht.put(signed(identity, timestamp_us=now_us + 1))
    monkeypatch.setattr(SignedPacket, "more_recent_than", lambda self, other: False)
    stored = await dht.put(signed(identity, timestamp_us=now_us))
    assert stored.nodes == 0
    assert stored.newer is None
    assert set(stored.refusals) == {"a more recent packet is there"}


async def test_an_item_that_is_no_dns_message_is_as_good_as_none(nodes: list[Node], dht: DhtClient) -> None:
    identity = Identity.generate()
    await asyncio.to_thread(nodes[1].put, identity.seed, b"not a DNS message")
    assert (await dht.get(identity.endpoint_id)).packet is None


async def test_a_bootstrap_node_that_is_away_is_no_obstacle_and_alone_is_nothing_known(
    nodes: list[Node],
) -> None:
    nowhere = (HOST, 9)
    for bootstrap, answers in (([nowhere, (HOST, nodes[3].port)], True), ([nowhere], False), ([], False)):
        client = DhtClient(bootstrap)
        await client.start()
        found = await client.get(os.urandom(32))
        assert (found.nodes_answered > 0) is answers
        await client.close()


async def test_a_name_that_does_not_resolve_is_no_obstacle(nodes: list[Node]) -> None:
    client = DhtClient([("no-such-host.invalid", 6881), (HOST, nodes[2].port)])
    await client.start()
    assert (await client.get(os.urandom(32))).nodes_answered > 0
    await client.close()


async def test_forged_answers_from_elsewhere_are_not_taken(nodes: list[Node]) -> None:
    """An answer counts from the address that was asked, with the transaction id it was asked with."""
    loop = asyncio.get_running_loop()
    client = DhtClient([(HOST, nodes[0].port)])
    await client.start()
    assert client._transport is not None
    port = client._transport.get_extra_info("sockname")[1]
    forger, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(HOST, port))
    identity = Identity.generate()
    for transaction in (b"\0\0\0\0", b"", b"garbage", os.urandom(4)):
        forger.sendto(b"d1:rd2:id20:" + bytes(20) + b"e1:t%d:%b1:y1:re" % (len(transaction), transaction))
        forger.sendto(os.urandom(60))
    found = await client.get(identity.endpoint_id)
    assert found.nodes_answered >= 8
    forger.close()
    await client.close()


async def test_published_through_the_network_and_found_by_another(nodes: list[Node], dht: DhtClient) -> None:
    identity = Identity.generate()
    packet = signed(identity)
    ours = DhtNetwork(dht, lambda: time.monotonic_ns() // 1_000_000)
    ours.start()
    await ours.publish(packet)
    await asyncio.to_thread(wait_until, lambda: ours.published, "it is published")
    await ours.close()
    other = DhtClient([(HOST, nodes[5].port)])
    await other.start()
    theirs = DhtNetwork(other, lambda: time.monotonic_ns() // 1_000_000)
    assert await theirs.resolve(identity.endpoint_id) == packet
    await other.close()


async def test_the_command_line_publishes_there_and_finds_it_again(nodes: list[Node], tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "key")
    where = ("--dht", "--bootstrap", f"{HOST}:{nodes[6].port}")
    told = await aspen("pkarr", "publish", "--key", str(tmp_path / "key"), "@ 60 A 192.0.2.4", *where)
    assert told == f"{identity.z32}\ndht: published\n"
    read = await asyncio.to_thread(nodes[1].get, identity.endpoint_id)
    assert read is not None
    assert read[2] == build_message(identity.endpoint_id, ["@ 60 A 192.0.2.4"])
    found = await aspen("pkarr", "resolve", identity.z32, *where)
    assert "by dht, signed" in found
    assert f"{identity.z32}. 60 IN A 192.0.2.4" in found


async def aspen(*arguments: str) -> str:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aspen.cli.main", *arguments, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(40):
        printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()
