"""The real `dig` against real sockets over a real store: what an operator sees."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aspen.dns.lookup import DnsSettings
from aspen.dns.sockets import bind_udp_and_tcp
from aspen.dns.stream import TcpServer
from aspen.dns.udp import InProcessUdp, UdpWorkers

pytestmark = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")


@pytest.fixture(params=["worker", "in_process"])
async def port(request: pytest.FixtureRequest, replica: Any) -> AsyncIterator[int]:
    replica.put(
        '_iroh 30 TXT "relay=https://relay.example./"\n@ 300 A 192.0.2.1\nwww 60 CNAME KEY.\n'
        + "\n".join(f'big 30 TXT "{number}{"x" * 120}"' for number in range(5)),
        timestamp_us=2,
    )
    sockets, tcp = bind_udp_and_tcp("127.0.0.1", 0, 1)
    number = int(tcp.getsockname()[1])
    udp: UdpWorkers | InProcessUdp
    if request.param == "worker":
        udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path)
    else:
        udp = InProcessUdp(sockets, replica.view())
    server = TcpServer(replica.view())
    await udp.start()
    await server.start_on(tcp)
    yield number
    await server.close()
    await udp.close()


async def dig(port: int, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "dig",
        "@127.0.0.1",
        "-p",
        str(port),
        "+tries=2",
        "+time=15",  # a retry would show in the output
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    assert "malformed" not in text
    return text


async def test_dig_sees_what_was_published(port: int, z32: str) -> None:
    assert await dig(port, "+short", f"_iroh.{z32}.aspen.local", "TXT") == '"relay=https://relay.example./"\n'
    assert await dig(port, "+short", "+tcp", f"{z32}.aspen.local", "A") == "192.0.2.1\n"
    assert await dig(port, "+short", f"www.{z32}.aspen.local", "A") == f"{z32}.aspen.local.\n192.0.2.1\n"


async def test_dig_sees_status_flags_and_authority(port: int, z32: str) -> None:
    text = await dig(port, f"nope.{z32}.aspen.local", "A")
    assert "status: NXDOMAIN" in text
    assert "flags: qr aa rd;" in text
    assert "aspen.local.\t\t60\tIN\tSOA\tns1.aspen.local." in text
    text = await dig(port, f"_iroh.{z32}.aspen.local", "A")
    assert "status: NOERROR" in text
    assert "ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1" in text
    assert "EDNS: version: 0, flags:; udp: 1232" in text
    text = await dig(port, "www.example.com", "A")
    assert "status: REFUSED" in text
    assert "EDE: 20 (Not Authoritative)" in text


async def test_dig_falls_back_to_tcp_on_truncation(port: int, z32: str) -> None:
    name = f"big.{z32}.aspen.local"
    assert "flags: qr aa tc rd;" in await dig(port, "+noedns", "+ignore", name, "TXT")
    text = await dig(port, "+noedns", name, "TXT")
    assert "Truncated, retrying in TCP mode" in text
    assert "ANSWER: 5" in text
    assert "ANSWER: 5" in await dig(port, name, "TXT")


# The questions of the EDNS compliance tester (Andrews, draft-ietf-dnsop-no-response-issue §8).
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+noedns", "+noad", "+norec"], ["NOERROR", "ANSWER: 1", "ADDITIONAL: 0"]),
        (["+edns=0", "+nocookie", "+noad", "+norec"], ["NOERROR", "ANSWER: 1", "version: 0"]),
        (["+edns=100", "+noednsneg", "+nocookie", "+noad", "+norec"], ["BADVERS", "ANSWER: 0", "version: 0"]),
        (["+edns=0", "+ednsopt=100", "+nocookie", "+noad", "+norec"], ["NOERROR", "ANSWER: 1", "version: 0"]),
        (["+edns=0", "+ednsflags=0x40", "+nocookie", "+noad", "+norec"], ["NOERROR", "flags:;", "ANSWER: 1"]),
        (["+dnssec", "+nocookie", "+noad", "+norec"], ["NOERROR", "flags: do;", "ANSWER: 1"]),
        (["+edns=100", "+noednsneg", "+ednsopt=100", "+nocookie", "+norec"], ["BADVERS", "version: 0"]),
        (["+edns=0", "+nsid", "+subnet=192.0.2.0/24", "+expire", "+cookie"], ["NOERROR", "ANSWER: 1"]),
        (["+noedns", "+noad", "+norec", "+opcode=15", "+header-only"], ["NOTIMP", "opcode: RESERVED15"]),
        (["+zflag", "+noad", "+norec"], ["NOERROR", "flags: qr aa;", "ANSWER: 1"]),
        (["+norec", "+tcp", "+edns=0"], ["NOERROR", "flags: qr aa;", "ANSWER: 1"]),
    ],
)
async def test_edns_compliance(port: int, z32: str, arguments: list[str], expected: list[str]) -> None:
    text = await dig(port, *arguments, f"{z32}.aspen.local", "A")
    for part in expected:
        assert part in text, text


@pytest.mark.skipif(shutil.which("delv") is None, reason="delv is not installed")
@pytest.mark.parametrize("transport", [(), ("+tcp",)])
async def test_delv_takes_answers_and_denials_for_what_they_are(
    port: int, z32: str, transport: tuple[str, ...]
) -> None:
    """A validator asks with DO and CD, and must be able to tell unsigned from bogus."""

    async def delv(name: str, rrtype: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("delv", "@127.0.0.1", "-p", str(port), "-i", *transport, name, rrtype),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        return out.decode()

    assert "relay=https://relay.example./" in await delv(f"_iroh.{z32}.aspen.local", "TXT")
    assert "192.0.2.1" in await delv(f"www.{z32}.aspen.local", "A")
    assert "ncache nxdomain" in await delv(f"no.{z32}.aspen.local", "A")
    assert "ncache nxrrset" in await delv(f"_iroh.{z32}.aspen.local", "A")
