"""NOTIFY (RFC 1996): the leader tells secondaries, which are sockets of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.tsig
import pytest
from primaries import KEY, RememberingZone

from aspen.dns.name import name_from_text
from aspen.dns.notification import Target, parse_target
from aspen.dns.notify import Notifier
from aspen.dns.zone import Announced
from aspen.errors import ConfigError

SECONDS = 30.0
APEX = name_from_text("zone.example.")
KEYRING = dns.tsig.Key("transfer.example.", KEY.secret, "hmac-sha256.")


class Secondary(asyncio.DatagramProtocol):
    """Takes NOTIFYs, and answers unless told to be silent."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[dns.message.Message] = asyncio.Queue()
        self.silent = 0
        self.rcode = dns.rcode.NOERROR
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    @property
    def address(self) -> str:
        host, port = self.transport.get_extra_info("sockname")[:2]
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: Any) -> None:
        message = dns.message.from_wire(data, keyring=KEYRING)
        self.received.put_nowait(message)
        if self.silent:
            self.silent -= 1
            return
        reply = dns.message.make_response(message)
        reply.set_rcode(self.rcode)
        self.transport.sendto(reply.to_wire(), addr)

    async def next(self) -> dns.message.Message:
        return await asyncio.wait_for(self.received.get(), SECONDS)


class Announcing:
    """Zones in memory that are told of."""

    def __init__(self) -> None:
        self.moved = 0
        self.serial = 1
        self.targets: tuple[str, ...] = ()

    def change(self) -> None:
        self.serial += 1
        self.moved += 1

    def changes(self) -> int:
        return self.moved

    def announced(self) -> list[Announced]:
        return [Announced(APEX, self.targets, self.serial)] if self.targets else []

    def get(self, apex: bytes) -> Any:
        return RememberingZone("", serial=self.serial)


@pytest.fixture
async def secondary() -> AsyncIterator[Secondary]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Secondary, local_addr=("127.0.0.1", 0)
    )
    yield protocol
    transport.close()


Start = Callable[..., tuple[Notifier, Announcing]]


@pytest.fixture
async def start(secondary: Secondary) -> AsyncIterator[Start]:
    notifiers = []

    def begin(*, term: Callable[[], int | None] = lambda: 1, suffix: str = "") -> tuple[Notifier, Announcing]:
        zones = Announcing()
        zones.targets = (secondary.address + suffix,)
        import time

        notifier = Notifier(zones, {KEY.name: KEY}, term, time.time, delay_ms=20, retry_min_ms=50)
        notifiers.append(notifier)
        notifier.start()
        notifier.progressed()
        return notifier, zones

    yield begin
    for notifier in notifiers:
        await notifier.close()


async def settled(notifier: Notifier) -> None:
    async with asyncio.timeout(SECONDS):
        while notifier._telling:
            await asyncio.wait(notifier._telling.values())


async def test_a_change_is_told_with_the_new_soa_section_3_7(start: Start, secondary: Secondary) -> None:
    notifier, zones = start()
    first = await secondary.next()
    assert first.opcode() == dns.opcode.NOTIFY
    assert first.flags & dns.flags.AA
    assert first.question[0].to_text() == "zone.example. IN SOA"
    assert first.answer[0][0].serial == 1
    assert not first.had_tsig
    zones.change()
    notifier.progressed()
    assert (await secondary.next()).answer[0][0].serial == 2
    await settled(notifier)
    notifier.progressed()
    await asyncio.sleep(0.1)
    assert secondary.received.empty(), "what is known is not told again"
    assert notifier.answered == 2


async def test_changes_of_a_moment_are_told_of_together(start: Start, secondary: Secondary) -> None:
    notifier, zones = start()
    await secondary.next()
    for _ in range(50):
        zones.change()
        notifier.progressed()
        await asyncio.sleep(0)
    serials = [(await secondary.next()).answer[0][0].serial]
    while serials[-1] < 51:
        serials.append((await secondary.next()).answer[0][0].serial)
    assert len(serials) <= 5


async def test_silence_is_met_with_patience_section_3_6(start: Start, secondary: Secondary) -> None:
    secondary.silent = 2
    notifier, _ = start()
    ids = [(await secondary.next()).answer[0][0].serial for _ in range(3)]
    await settled(notifier)
    assert ids == [1, 1, 1]
    assert (notifier.sent, notifier.answered) == (3, 1)


async def test_a_change_meanwhile_begins_anew_with_the_newest_serial(
    start: Start, secondary: Secondary
) -> None:
    secondary.silent = 1
    notifier, zones = start()
    await secondary.next()
    zones.change()
    notifier.progressed()
    assert (await secondary.next()).answer[0][0].serial == 2
    await settled(notifier)


async def test_a_refusal_is_an_answer(start: Start, secondary: Secondary) -> None:
    secondary.rcode = dns.rcode.REFUSED
    notifier, _ = start()
    await secondary.next()
    await settled(notifier)
    assert notifier.sent == 1


async def test_a_target_with_a_key_is_told_signed(start: Start, secondary: Secondary) -> None:
    notifier, _ = start(suffix="#Transfer.Example")
    assert (await secondary.next()).had_tsig
    await settled(notifier)
    assert notifier.answered == 1


async def test_only_a_leader_speaks_and_a_new_one_tells_of_all(start: Start, secondary: Secondary) -> None:
    term: list[int | None] = [None]
    notifier, zones = start(term=lambda: term[0])
    await asyncio.sleep(0.1)
    assert secondary.received.empty()
    term[0] = 5
    notifier.progressed()
    assert (await secondary.next()).answer[0][0].serial == 1
    await settled(notifier)
    term[0] = None
    zones.change()
    notifier.progressed()
    await asyncio.sleep(0.1)
    assert secondary.received.empty()
    term[0] = 7
    notifier.progressed()
    assert (await secondary.next()).answer[0][0].serial == 2


async def test_a_secondary_that_is_added_is_told_at_once(start: Start, secondary: Secondary) -> None:
    notifier, zones = start()
    await secondary.next()
    await settled(notifier)
    transport, other = await asyncio.get_running_loop().create_datagram_endpoint(
        Secondary, local_addr=("127.0.0.1", 0)
    )
    zones.targets = (*zones.targets, other.address)
    zones.moved += 1
    notifier.progressed()
    await other.next()
    assert secondary.received.empty()
    transport.close()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("192.0.2.1", Target("192.0.2.1", 53, None)),
        ("192.0.2.1:5353", Target("192.0.2.1", 5353, None)),
        ("2001:db8::1", Target("2001:db8::1", 53, None)),
        ("[2001:DB8::1]:5353#k.example", Target("2001:db8::1", 5353, "k.example")),
        ("[2001:db8::1]", Target("2001:db8::1", 53, None)),
        (" 192.0.2.1#k ", Target("192.0.2.1", 53, "k")),
    ],
)
def test_a_target_is_an_address_a_port_and_a_key(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ns.example",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "[::1]x",
        "192.0.2.1#",
        "[::1]:a",
        "1.2.3.4:-1",
    ],
)
def test_what_is_no_target_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(text)
