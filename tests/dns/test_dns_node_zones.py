"""Authored zones of a real node, over UDP (in the node process and by a worker) and TCP: created through the
log, changed, read behind barriers, closed to strangers."""

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
from aspen.dns.zone import ZoneSettings
from aspen.dns.zone_rules import ZoneRecord
from aspen.node import Node, bootstrap_node
from aspen.state.zone_commands import ZoneConfigure, ZoneCreate, ZoneDelete, ZoneResult, ZoneStatus

TEXT = "a A 192.0.2.1\n*.w TXT wild\nal CNAME a.consistent."


def records_of(apex: str, text: str) -> tuple[ZoneRecord, ...]:
    return tuple(
        ZoneRecord(owner, rrtype, rrset.ttl, rdata)
        for owner, node in zone_from_text(apex, text).walk()
        for rrtype, rrset in node.items()
        for rdata in rrset.rdatas
    )


async def ask(node: Node, name: str, rrtype: str, *, tcp: bool = False) -> dns.message.Message:
    assert node.dns_address is not None
    host, port = node.dns_address
    query = dns.message.make_query(name, rrtype, use_edns=0)
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        try:
            if tcp:
                return await dns.asyncquery.tcp(query, host, timeout=2, port=port)
            return await dns.asyncquery.udp(query, host, timeout=0.5, port=port)
        except (dns.exception.Timeout, OSError):  # the worker is starting
            assert asyncio.get_running_loop().time() < deadline


async def create(node: Node, apex: str, text: str, **settings: Any) -> None:
    zone = zone_from_text(apex, text)
    result = await node.proposer.propose(
        ZoneCreate(zone.apex, ZoneSettings(**settings), records_of(apex, text))
    )
    assert isinstance(result, ZoneResult)
    assert result.status is ZoneStatus.DONE, result


@pytest.mark.parametrize("workers", [0, 1])
async def test_zones_of_a_node(tmp_path: Path, workers: int) -> None:
    config = ClusterBootstrapConfig(
        node_id=1,
        data_dir=tmp_path / "node",
        cookie="a cookie of the tests, long enough",
        dns_port=0,
        http_addr="127.0.0.1:0",
        quic_port=0,
        profile="lan",
        init=True,
        dns_server=DnsServerConfig(workers=workers),
    )
    async with await bootstrap_node(config) as node:
        before = await ask(node, "www.aspen.local.", "A")
        assert before.rcode() == dns.rcode.NXDOMAIN
        for kind in ("stale", "consistent", "leader"):
            await create(node, f"{kind}.", TEXT, consistency=kind)
        await create(node, "closed.", TEXT, query_acl=("192.0.2.0/24",))
        await create(node, "aspen.local.", "www A 192.0.2.80")
        for tcp in (False, True):
            for kind in ("stale", "consistent", "leader"):
                reply = await ask(node, f"a.{kind}.", "A", tcp=tcp)
                assert [rrset.to_text() for rrset in reply.answer] == [f"a.{kind}. 300 IN A 192.0.2.1"]
                assert len((await ask(node, f"x.w.{kind}.", "TXT", tcp=tcp)).answer) == 1
                assert len((await ask(node, f"al.{kind}.", "A", tcp=tcp)).answer) == 2
                assert (await ask(node, f"no.{kind}.", "A", tcp=tcp)).rcode() == dns.rcode.NXDOMAIN
            closed = await ask(node, "a.closed.", "A", tcp=tcp)
            assert (closed.rcode(), [option.code for option in closed.options if option.otype == 15]) == (
                5,
                [18],
            )
            # The zone named like the origin: its records, and its SOA in negative answers about keys.
            static = await ask(node, "www.aspen.local.", "A", tcp=tcp)
            assert len(static.answer) == 1
            absent = await ask(node, f"{'y' * 52}.aspen.local.", "A", tcp=tcp)
            assert (
                absent.authority[0]
                .to_text()
                .startswith("aspen.local. 300 IN SOA ns1.aspen.local. hostmaster")
            )
        # What is disabled or deleted is gone with the answer to whoever did it, on this node.
        apex = zone_from_text("stale.", "").apex
        await node.proposer.propose(ZoneConfigure(apex, ZoneSettings(enabled=False)))
        assert (await ask(node, "a.stale.", "A")).rcode() == dns.rcode.REFUSED
        await node.proposer.propose(ZoneDelete(zone_from_text("aspen.local.", "").apex))
        gone = await ask(node, "www.aspen.local.", "A")
        assert gone.rcode() == dns.rcode.NXDOMAIN
        assert gone.authority[0].to_text().startswith("aspen.local. 60 IN SOA ")
