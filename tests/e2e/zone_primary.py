"""A node as a process of its own that holds one zone: `python zone_primary.py DATA_DIR DNS_PORT COUNT`.

The zone and the key are made at the first start; a later start finds them. For tests of transfers,
which need a primary that can be killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import dns.zone

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.config import ClusterBootstrapConfig
from aspen.dns.name import name_from_text
from aspen.dns.tsig_keys import encode_key, make_key, setting_name
from aspen.dns.zone import ZoneSettings
from aspen.dns.zone_rules import ZoneRecord
from aspen.errors import ControlPlaneError
from aspen.node import Node, bootstrap_node
from aspen.state.settings import SettingPut
from aspen.state.zone_commands import ZoneActivate, ZoneConfigure, ZoneResult, ZoneStage, ZoneStatus

ZONE = "zone.example."
APEX = name_from_text(ZONE)
KEY_NAME = "transfer.example."
SECRET = bytes(range(32))
STAGE_RECORDS = 1_000
RECORDS = r"""
@ 300 SOA ns1 hostmaster 1 3600 600 86400 300
@ 300 NS ns1
@ 300 NS ns2.elsewhere.example.
@ 60 MX 10 Mail.Zone.Example.
@ 60 CAA 0 issue "ca.example"
@ 60 TXT "v=spf1 -all" "second string"
ns1 300 A 127.0.0.1
alias 60 CNAME www
www 60 A 192.0.2.80
www 60 AAAA 2001:db8::80
_sip._tcp 60 SRV 0 5 5060 WWW
_443._tcp 60 TLSA 3 1 0 0123456789abcdef
host 60 SSHFP 4 3 abcdef
old 60 DNAME new.zone.example.
naptr 60 NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .
svc 60 HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
svc 60 SVCB 2 other.example. port=8443
unknown 60 TYPE65280 \# 4 0a000001
empty 60 TYPE65281 \# 0
sub 60 NS ns.sub
sub 60 DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118
ns.sub 60 A 192.0.2.53
* 60 TXT "wild" "card"
ptr 60 PTR WWW
weird\.dot\032space 60 A 192.0.2.9
loc 60 LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
uri 60 URI 10 1 "https://www.example/"
cds 60 CDS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118
rp 60 RP Admin.Zone.Example. txt
afsdb 60 AFSDB 1 Afs
"""


def records(count: int) -> list[ZoneRecord]:
    """The zone: odd types, and `count` hosts."""
    zone = dns.zone.from_text(RECORDS, origin=ZONE, relativize=False)
    odd = [
        ZoneRecord(name.to_wire().lower(), rdataset.rdtype, rdataset.ttl, rdata.to_wire())
        for name, rdataset in zone.iterate_rdatasets()
        for rdata in rdataset
    ]
    hosts = [
        ZoneRecord(b"\x06%06d\x05hosts" % i + APEX, 1, 300, (0x0A00_0000 + i).to_bytes(4, "big"))
        for i in range(count)
    ]
    return odd + hosts


async def bring_in(node: Node, zone: list[ZoneRecord], settings: ZoneSettings) -> int:
    """Import a zone by chunks; its serial."""
    stage_id = b"0123456789abcdef"
    chunks = [zone[at : at + STAGE_RECORDS] for at in range(0, len(zone), STAGE_RECORDS)]
    for sequence, chunk in enumerate(chunks):
        await done(node, ZoneStage(stage_id, APEX, sequence, tuple(chunk)))
    return (await done(node, ZoneActivate(stage_id, len(chunks), settings))).serial


async def done(node: Node, command: ZoneStage | ZoneActivate | ZoneConfigure) -> ZoneResult:
    result = await node.proposer.propose(command)
    assert isinstance(result, ZoneResult), result
    assert result.status is ZoneStatus.DONE, result
    return result


async def main(
    data_dir: str, dns_port: int, count: int, http_port: int, quic_port: int, notify: list[str]
) -> None:
    config = ClusterBootstrapConfig(
        node_id=1,
        data_dir=Path(data_dir),
        cookie="secondaries-of-a-zone-under-test",
        dns_port=dns_port,
        http_addr=f"127.0.0.1:{http_port}",
        quic_port=quic_port,
        profile="lan",
    )
    config.dns_server.workers = 1
    async with await bootstrap_node(config) as node:
        try:
            await RaftControlClient(node).init(InitRequest([ClusterNode(1, f"127.0.0.1:{quic_port}")]))
        except ControlPlaneError:
            pass  # it was founded before
        settings = ZoneSettings(
            transfer_acl=("127.0.0.0/8",),
            transfer_keys=(KEY_NAME,),
            update_keys=(KEY_NAME,),
            notify=tuple(notify),
        )
        if node.zones.get(APEX) is None:
            key = make_key(KEY_NAME, "hmac-sha256", SECRET)
            await node.proposer.propose(SettingPut(setting_name(KEY_NAME), encode_key(key)))
            await bring_in(node, records(count), settings)
        else:
            await done(node, ZoneConfigure(APEX, settings))
        print("ready", flush=True)
        await node.wait_closed()


def shift_clock(seconds: int) -> None:
    """Have this process's wall clock differ from everybody else's."""
    right = time.time_ns
    time.time_ns = lambda: right() + seconds * 1_000_000_000


if __name__ == "__main__":
    shift_clock(int(os.environ.get("CLOCK_SHIFT_S", "0")))
    directory, dns_port, count, http, quic, *targets = sys.argv[1:]
    asyncio.run(main(directory, int(dns_port), int(count), int(http), int(quic), targets))
