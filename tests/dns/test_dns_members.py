"""The cluster's own nodes in DNS: `_iroh.<endpoint id>` and `_aspen._udp` (RFC 2782, RFC 6763 §6)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import pytest
from dns_zones import zone_from_text

from aspen.config import ClusterBootstrapConfig, DnsServerConfig
from aspen.dns.fast import FastResponder
from aspen.dns.lookup import DnsSettings, View
from aspen.dns.members import ClusterNode, LiveNodes
from aspen.dns.members_file import read_nodes, write_nodes
from aspen.dns.respond import Transport, respond
from aspen.dns.zone import MemoryZones
from aspen.node import bootstrap_node
from aspen.pkarr.network import DhtNetwork
from aspen.z32 import encode_key

ONE, TWO = bytes(range(1, 33)), bytes(range(2, 34))
NODES = (
    ClusterNode(1, ONE, (("192.0.2.1", 7300), ("2001:db8::1", 7301), ("a.name", 1), ("0.0.0.0", 2))),
    ClusterNode(2, TWO, (("192.0.2.2", 7300),)),
    ClusterNode(3, bytes(32), ()),
)


@pytest.fixture
def served(serve: Any) -> Any:
    served = serve()
    authored = zone_from_text("authored.", "_aspen._udp TXT mine\n* A 192.0.2.99")
    live = LiveNodes()
    assert live.replace(reversed(NODES))
    assert not live.replace(NODES)
    settings = DnsSettings(origins=("aspen.local", "authored"))
    served.view = View.build(served.records, settings, MemoryZones([authored]), live)
    return served


def lines(section: Any) -> list[str]:
    return sorted(line for rrset in section for line in rrset.to_text().splitlines())


def test_a_node_is_found_by_its_endpoint_id_until_a_packet_says_otherwise(served: Any) -> None:
    name = f"_iroh.{encode_key(ONE)}.aspen.local."
    query = dns.message.make_query(name, "TXT").to_wire()
    assert lines(served.ask(name, "TXT").answer) == [
        f'{name} 30 IN TXT "addr=192.0.2.1:7300"',
        f'{name} 30 IN TXT "addr=[2001:db8::1]:7301"',
    ]
    reply = respond(query, served.view, Transport.UDP)
    assert reply is not None
    assert FastResponder(served.view).answer(query) == reply[2:]
    assert served.ask(f"x.{encode_key(ONE)}.aspen.local.", "TXT").rcode() == dns.rcode.NXDOMAIN
    assert served.ask(f"_iroh.{encode_key(bytes(32))}.aspen.local.", "TXT").rcode() == dns.rcode.NXDOMAIN
    served.put('_iroh 30 TXT "relay=https://relay.example./"', ONE)
    assert lines(served.ask(name, "TXT").answer) == [f'{name} 30 IN TXT "relay=https://relay.example./"']


def test_those_who_want_to_join_find_every_node(served: Any) -> None:
    service = "_aspen._udp.aspen.local."
    reply = served.ask(service, "SRV")
    assert lines(reply.answer) == [
        f"{service} 30 IN SRV 0 0 7300 node-1.{service}",
        f"{service} 30 IN SRV 0 0 7300 node-2.{service}",
        f"{service} 30 IN SRV 0 0 7301 node-1.{service}",
    ]
    assert lines(reply.additional) == [
        f"node-1.{service} 30 IN A 192.0.2.1",
        f"node-1.{service} 30 IN AAAA 2001:db8::1",
        f"node-2.{service} 30 IN A 192.0.2.2",
    ]
    assert lines(served.ask(service, "TXT").answer)[1] == (
        f'{service} 30 IN TXT "node=2" "id={encode_key(TWO)}" "addr=192.0.2.2:7300"'
    )
    for name, rcode in (("_udp.aspen.local.", dns.rcode.NOERROR), (f"node-3.{service}", dns.rcode.NXDOMAIN)):
        assert served.ask(name, "A").rcode() == rcode


def test_what_is_authored_at_the_name_comes_first(served: Any) -> None:
    assert lines(served.ask("_aspen._udp.authored.", "TXT").answer) == [
        '_aspen._udp.authored. 300 IN TXT "mine"'
    ]
    assert not served.ask("_aspen._udp.authored.", "SRV").answer
    assert lines(served.ask("node-2._aspen._udp.authored.", "A").answer)[0].endswith("192.0.2.2")
    assert lines(served.ask("else.authored.", "A").answer)[0].endswith("192.0.2.99")


def test_workers_hear_of_nodes_by_a_file(tmp_path: Path) -> None:
    assert read_nodes(tmp_path) == ()
    write_nodes(tmp_path, NODES)
    assert read_nodes(tmp_path) == NODES
    (tmp_path / "dns-nodes").write_bytes(b"\x93nonsense")
    assert read_nodes(tmp_path) == ()


@pytest.mark.parametrize(("workers", "fallback"), [(0, False), (1, False), (0, True)])
async def test_a_node_tells_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, fallback: bool
) -> None:
    """And nobody is asked for it first, where unknown keys are looked for in the DHT."""
    looked_for: list[bytes] = []

    async def look_up(dht: DhtNetwork, public_key: bytes) -> None:
        looked_for.append(public_key)

    monkeypatch.setattr(DhtNetwork, "look_up", look_up)
    config = ClusterBootstrapConfig(
        node_id=1,
        data_dir=tmp_path / "node",
        cookie="a cookie of the tests, long enough",
        dns_port=0,
        http_addr="127.0.0.1:0",
        quic_host="127.0.0.1",
        quic_port=0,
        profile="lan",
        init=True,
        dns_server=DnsServerConfig(
            workers=workers, enable_dht_fallback=fallback, dht_bootstrap_nodes=["127.0.0.1:9"]
        ),
    )
    async with await bootstrap_node(config) as node:
        assert node.dns_address is not None
        host, port = node.dns_address
        name = f"_iroh.{encode_key(node.identity.endpoint_id)}.aspen.local."
        deadline = asyncio.get_running_loop().time() + 10
        answer: list[str] = []
        while not answer:
            assert asyncio.get_running_loop().time() < deadline
            try:
                query = dns.message.make_query(name, "TXT")
                reply = await dns.asyncquery.udp(query, host, timeout=0.3, port=port)
                answer = lines(reply.answer)
            except (dns.exception.Timeout, OSError):  # the worker is starting
                pass
            await asyncio.sleep(0.02)
        assert answer == [f'{name} 30 IN TXT "addr=127.0.0.1:{node.quic_address[1]}"']
        looked_for.clear()  # while it belonged to no cluster yet
        await dns.asyncquery.udp(dns.message.make_query(name, "TXT"), host, timeout=5, port=port)
        assert looked_for == []
