"""Names under keys that only elsewhere knows, by every transport: waited for, and marked (RFC 8914)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from encrypted import self_signed
from test_dns_doq_rfc9250 import Client, Doq, framed

from aspen.dns.elsewhere import WaitingAnswers, marked, waiting_stream
from aspen.dns.fallback import FallbackRecords
from aspen.dns.lookup import View
from aspen.dns.origin import DnsSettings
from aspen.dns.packet_zone import build_ready_answers
from aspen.dns.respond import Transport, answer
from aspen.dns.sockets import bind_udp
from aspen.dns.stream import Answers, Padding, Send
from aspen.identity import Identity
from aspen.pkarr.records import build_message
from aspen.tls.doq import DoqServer

THERE = Identity.from_seed(bytes(range(32)))
NOWHERE = Identity.from_seed(bytes(32))
FOREIGN = b"from the DHT, not replicated"


class Nothing:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


class Elsewhere:
    """Knows one key, once it has been asked and `open` is set."""

    def __init__(self) -> None:
        message = build_message(THERE.endpoint_id, ["@ 77 A 192.0.2.1"])
        self._answers = {THERE.endpoint_id: build_ready_answers(message, THERE.z32.encode())}
        self._asked: set[bytes] = set()
        self.lookups = 0
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    def known(self, public_key: bytes) -> tuple[bool, bytes | None]:
        asked = public_key in self._asked
        return asked, self._answers.get(public_key) if asked else None

    async def look_up(self, public_key: bytes) -> None:
        self.lookups += 1
        self.asked.set()
        await self.open.wait()
        self._asked.add(public_key)


@pytest.fixture
async def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
async def view(elsewhere: Elsewhere) -> View:
    return View.build(FallbackRecords(Nothing(), elsewhere), DnsSettings(origins=("keys.test",)))


def query(identity: Identity, **options: Any) -> dns.message.Message:
    return dns.message.make_query(f"{identity.z32}.keys.test", "A", id=0, **options)


def is_marked(reply: dns.message.Message) -> bool:
    return any(FOREIGN.decode() in str(option) for option in reply.options)


def deferred(view: View) -> Any:
    async def stream(message: bytes, client: Any, send: Send) -> None:
        reply = answer(message, view, Transport.TCP)
        if reply is not None:
            await send(reply.message)

    return waiting_stream(stream)


async def otherwise(message: bytes, client: Any) -> bytes | None:
    raise AssertionError("nothing here is for others")


@pytest.fixture
def waiting(view: View) -> WaitingAnswers:
    return WaitingAnswers(view, DnsSettings(origins=("keys.test",)), lambda: None, otherwise)


async def test_a_datagram_is_answered_once_elsewhere_has_been_asked(
    waiting: WaitingAnswers, elsewhere: Elsewhere
) -> None:
    for _ in range(2):
        wire = await waiting.datagram(query(THERE, use_edns=0).to_wire(), ("192.0.2.9", 1))
        assert wire is not None
        reply = dns.message.from_wire(wire)
        assert reply.answer[0].to_text().endswith(" 77 IN A 192.0.2.1")
        assert is_marked(reply)
    assert elsewhere.lookups == 1


async def test_what_nobody_knows_is_denied_and_not_marked(waiting: WaitingAnswers) -> None:
    wire = await waiting.datagram(query(NOWHERE, use_edns=0).to_wire(), ("192.0.2.9", 1))
    assert wire is not None
    reply = dns.message.from_wire(wire)
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert not is_marked(reply)


async def test_a_client_without_edns_is_answered_without_the_mark(waiting: WaitingAnswers) -> None:
    wire = await waiting.datagram(query(THERE).to_wire(), ("192.0.2.9", 1))
    assert wire is not None
    reply = dns.message.from_wire(wire)
    assert reply.answer
    assert not reply.options


async def test_a_mark_that_has_no_room_is_left_out(waiting: WaitingAnswers) -> None:
    wire = await waiting.datagram(query(THERE, use_edns=0).to_wire(), ("192.0.2.9", 1))
    assert wire is not None
    assert len(marked(wire, len(wire))) == len(wire)
    assert len(marked(wire, 65_535)) > len(wire)


async def test_by_connections_and_https_the_same(view: View) -> None:
    answers = Answers(view, Padding.ASKED, defer=deferred(view))
    for _ in range(2):
        wire = await answers.answer_in_time(query(THERE, use_edns=0).to_wire(), b"", ("192.0.2.9", 1))
        assert wire is not None
        assert is_marked(dns.message.from_wire(wire))
    denied = await answers.answer_in_time(query(NOWHERE).to_wire(), b"", ("192.0.2.9", 1))
    assert denied is not None
    assert dns.message.from_wire(denied).rcode() == dns.rcode.NXDOMAIN


@pytest.fixture
async def doq(view: View, tmp_path: Path) -> AsyncIterator[Doq]:
    answers = Answers(view, Padding.EDNS, defer=deferred(view))
    server = DoqServer(answers, self_signed(tmp_path), Identity.generate())
    _, port = server.start(bind_udp("127.0.0.1", 0, 1)[0])
    yield Doq(server, "127.0.0.1", port, tmp_path)
    server.close()


async def ask(client: Client, stream_id: int, identity: Identity) -> None:
    client.send(stream_id, framed(query(identity, use_edns=0).to_wire()))


async def test_by_quic_one_that_waits_holds_up_no_other(doq: Doq, elsewhere: Elsewhere) -> None:
    async with doq.client() as client:
        await ask(client, 0, NOWHERE)
        assert (await client.reply(0)).rcode() == dns.rcode.NXDOMAIN
        elsewhere.open.clear()
        await ask(client, 4, THERE)
        await ask(client, 8, NOWHERE)  # known by now to be nowhere
        assert (await client.reply(8)).rcode() == dns.rcode.NXDOMAIN
        assert 4 not in client.ended
        elsewhere.open.set()
        reply = await client.reply(4)
        assert reply.answer
        assert is_marked(reply)
        assert doq.server.answered == 3


async def test_by_quic_a_client_that_goes_leaves_nothing_behind(doq: Doq, elsewhere: Elsewhere) -> None:
    elsewhere.open.clear()
    async with doq.client() as client:
        await ask(client, 0, THERE)
        async with asyncio.timeout(30):
            await elsewhere.asked.wait()
    elsewhere.open.set()
    async with doq.client() as client:
        await ask(client, 0, THERE)
        assert (await client.reply(0)).answer
