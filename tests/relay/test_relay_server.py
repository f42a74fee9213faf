"""A relay on loopback: who is let in, what is forwarded, what is dropped."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import aiohttp
import pytest
from relay_stations import COOKIE, Caller, Callers, Lines, Relays, macs

from aspen.identity import Identity
from aspen.limits import RELAY_DATAGRAM_BYTES, RELAY_UNPROVEN_PER_ADDRESS
from aspen.ratelimit import Rate
from aspen.relay.access import Access, is_called, prove
from aspen.relay.frames import Challenge, Datagram, Gone, Refused, Welcome, decode_frame, encode_frame
from aspen.relay.hub import RelayLimits

ONE, TWO = Identity.from_seed(b"1" * 32), Identity.from_seed(b"2" * 32)


async def _enters(caller: Caller, identity: Identity, **how: str) -> Caller:
    await caller.says(await caller.proof(identity, **how))
    assert isinstance(await caller.hears(), Welcome)
    return caller


async def test_datagrams_go_to_whom_they_are_for_and_say_whom_they_are_from(
    relay: Relays, line: Lines
) -> None:
    there = await relay()
    one, two, three = await line(there), await line(there), await line(there)
    one.client.send(two.id, b"hello")
    assert await two.hears() == (one.id, b"hello")
    two.client.send(one.id, bytes(RELAY_DATAGRAM_BYTES))
    assert await one.hears() == (two.id, bytes(RELAY_DATAGRAM_BYTES))
    assert three.heard.empty()
    assert there.server.hub.forwarded == 2


async def test_a_client_hears_who_is_not_there(relay: Relays, line: Lines) -> None:
    one = await line(await relay())
    one.client.send(TWO.endpoint_id, b"hello")
    async with asyncio.timeout(30):
        assert await one.gone.get() == TWO.endpoint_id


# --- who is let in ----------------------------------------------------------------------------------


async def test_a_foreign_cookie_is_refused(relay: Relays, line: Lines) -> None:
    there = await relay()
    stranger = await line(there, cookie="the cookie of another cluster", wait=False)
    await stranger.fails("this relay is for others")
    assert not there.server.hub.sessions
    assert there.server.refusals.counts["not_allowed"] >= 1


async def test_while_the_cookie_is_changed_a_relay_takes_both(relay: Relays, line: Lines) -> None:
    there = await relay(Access(authenticators=macs("the new cookie of these tests", COOKIE)))
    await line(there)
    await line(there, cookie="the new cookie of these tests")


async def test_without_a_cookie_only_those_on_the_list_are_let_in(relay: Relays, line: Lines) -> None:
    there = await relay(Access(endpoint_ids=[ONE.endpoint_id]))
    await line(there, identity=ONE, cookie=None)
    stranger = await line(there, identity=TWO, cookie=None, wait=False)
    await stranger.fails("this relay is for others")


async def test_an_open_relay_asks_for_no_cookie_and_is_shown_no_proof_of_it(
    relay: Relays, caller: Callers
) -> None:
    talker = await caller(await relay(Access(open=True)))
    proof = await talker.proof(ONE)
    assert proof.mac == bytes(32)
    await talker.says(proof)
    assert isinstance(await talker.hears(), Welcome)


async def test_a_removed_node_is_refused_though_it_knows_the_cookie(relay: Relays, line: Lines) -> None:
    there = await relay(Access(authenticators=macs(COOKIE), refuses=lambda key: key == ONE.endpoint_id))
    gone = await line(there, identity=ONE, wait=False)
    await gone.fails("removed")
    await line(there, identity=TWO)


async def test_a_node_that_is_removed_while_it_is_connected_is_sent_away(relay: Relays, line: Lines) -> None:
    removed: set[bytes] = set()
    there = await relay(Access(authenticators=macs(COOKIE), refuses=removed.__contains__))
    one, two = await line(there, identity=ONE), await line(there, identity=TWO)
    removed.add(ONE.endpoint_id)
    there.server.recheck()
    await one.fails("removed")
    assert [session.endpoint_id for session in there.server.hub.sessions] == [TWO.endpoint_id]
    assert two.client.connected


async def test_an_endpoint_id_whose_key_the_client_lacks_is_refused(relay: Relays, caller: Callers) -> None:
    for access in (Access(open=True), Access(endpoint_ids=[ONE.endpoint_id])):
        talker = await caller(await relay(access))
        proof = await talker.proof(TWO)
        await talker.says(replace(proof, endpoint_id=ONE.endpoint_id))
        assert await talker.refused() == "wrong_key"


async def test_with_a_cookie_a_changed_signature_is_refused(relay: Relays, caller: Callers) -> None:
    there = await relay()
    for change in ({"signature": bytes(64)}, {"endpoint_id": ONE.endpoint_id}, {"mac": bytes(32)}):
        talker = await caller(there)
        await talker.says(replace(await talker.proof(TWO), **change))
        assert await talker.refused() == "not_allowed"


async def test_a_proof_that_was_overheard_is_worth_nothing(relay: Relays, caller: Callers) -> None:
    there = await relay()
    first, second = await caller(there), await caller(there)
    proof = await first.proof(ONE)
    await first.says(proof)
    await second.challenged()
    await second.says(proof)
    assert await second.refused() == "not_allowed"


async def test_a_proof_made_for_another_relay_is_refused(relay: Relays, caller: Callers) -> None:
    talker = await caller(await relay())
    await talker.says(await talker.proof(ONE, name="relay.example.com"))
    assert await talker.refused() == "wrong_name"


async def test_who_poses_as_another_relay_can_not_use_its_clients_proofs_here(
    relay: Relays, caller: Callers
) -> None:
    """It passes this relay's challenge on to a client of its own, and calls this one by its own name."""
    there = await relay()
    poser = await caller(there, host="evil.example.com")
    await poser.says(await poser.proof(ONE))
    assert await poser.refused() == "wrong_name"
    assert not there.server.hub.sessions


async def test_a_relay_that_was_told_nothing_goes_by_the_address_at_which_it_is_reached(
    relay: Relays, caller: Callers
) -> None:
    there = await relay()
    await _enters(await caller(there), ONE)
    await _enters(await caller(there), ONE, name=f"localhost:{there.address[1]}")


async def test_a_relay_by_tls_goes_by_the_names_in_its_certificate_too(
    relay: Relays, caller: Callers
) -> None:
    there = await relay()
    there.server._certified = lambda: ("relay.example.com", "*.example.org")
    await _enters(await caller(there), ONE, name="relay.example.com")
    await _enters(await caller(there), ONE, name="relay.example.com:8443")
    talker = await caller(there)
    await talker.says(await talker.proof(ONE, name="other.example.org"))
    assert await talker.refused() == "wrong_name"


@pytest.mark.parametrize(
    ("name", "names", "meant"),
    [
        ("relay.example.com", ["Relay.example.com"], True),
        ("relay.example.com:8443", ["relay.example.com"], True),
        ("relay.example.com:8443", ["relay.example.com:8443"], True),
        ("relay.example.com", ["relay.example.com:8443"], False),
        ("relay.example.com.", ["relay.example.com"], True),
        ("192.0.2.1:3340", ["192.0.2.1"], True),
        ("192.0.2.1:3340", ["::ffff:192.0.2.1"], True),
        ("[2001:db8:0:0::1]:3340", ["2001:db8::1"], True),
        ("[2001:db8::1]", ["[2001:db8::1]:3340"], False),
        ("[2001:db8::1]:3340", ["[2001:db8::1]"], True),
        ("[2001:db8::1]:3340", ["[2001:db8:0:0::1]:3340"], True),
        ("[2001:db8::1]:3341", ["[2001:db8:0:0::1]:3340"], False),
        ("relay.example.com.:3340", ["relay.example.com:3340"], True),
        ("relay.example.com", ["relay.example.com:443"], True),
        ("relay.example.com:3340", ["relay.example.com:443"], False),
        ("[2001:db8::2]", ["2001:db8::1"], False),
        ("m.example.com", ["*.example.com"], False),
        ("", ["relay.example.com"], False),
        ("]:1", ["[", ":1"], False),
        ("relay.example.com", [], False),
    ],
)
def test_what_a_relay_is_called(name: str, names: list[str], meant: bool) -> None:
    assert is_called(name, names) is meant


async def test_a_host_header_that_is_no_text_is_refused_as_any_wrong_name(relay: Relays) -> None:
    there = await relay(Access(open=True))
    reader, writer = await asyncio.open_connection(*there.address)
    writer.write(
        b"GET /relay HTTP/1.1\r\nHost: caf\xe9\xff\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    _, size = await reader.readexactly(2)
    challenge = decode_frame(await reader.readexactly(size))
    assert isinstance(challenge, Challenge)
    proof = encode_frame(prove(ONE, challenge, "relay.example.com", ()))
    writer.write(bytes((0x82, 0x80 | 126)) + len(proof).to_bytes(2, "big") + bytes(4) + proof)
    async with asyncio.timeout(30):
        _, size = await reader.readexactly(2)
        size = int.from_bytes(await reader.readexactly(2), "big") if size == 126 else size
        refused = decode_frame(await reader.readexactly(size))
    writer.close()
    assert isinstance(refused, Refused)
    assert refused.code == "wrong_name"


async def test_a_relay_behind_a_proxy_goes_by_the_name_it_was_given(relay: Relays, caller: Callers) -> None:
    talker = await caller(await relay(Access(open=True, names=["relay.example.com"])))
    await _enters(talker, ONE, name="relay.example.com")


# --- clients that misbehave ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Datagram(ONE.endpoint_id, b"before any proof"), "malformed"),
        (b"\x02\x02" + bytes(128), "version"),
        (b"", "malformed"),
        (bytes(range(200)), "malformed"),
    ],
)
async def test_who_does_not_begin_with_a_proof_is_refused(
    relay: Relays, caller: Callers, said: Datagram | bytes, code: str
) -> None:
    talker = await caller(await relay())
    await talker.challenged()
    await talker.says(said)
    assert await talker.refused() == code


async def test_a_datagram_over_the_limit_ends_the_connection(relay: Relays, caller: Callers) -> None:
    talker = await _enters(await caller(await relay()), ONE)
    await talker.says(b"\x04" + TWO.endpoint_id + bytes(RELAY_DATAGRAM_BYTES + 1))
    assert await talker.refused() == "too_large"


async def test_a_message_far_over_the_limit_ends_the_connection(relay: Relays, caller: Callers) -> None:
    talker = await _enters(await caller(await relay()), ONE)
    await talker.says(bytes(100_000))
    async with asyncio.timeout(30):
        assert (await talker.socket.receive()).type is aiohttp.WSMsgType.CLOSE
    assert talker.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_what_is_over_the_rate_is_dropped_and_the_client_stays(relay: Relays, line: Lines) -> None:
    there = await relay(limits=RelayLimits(datagrams=Rate(0.001, 10)))
    one, two = await line(there), await line(there)
    for number in range(50):
        one.client.send(two.id, bytes((number,)))
    async with asyncio.timeout(30):
        while there.server.hub.dropped["rate"] < 40:  # noqa: ASYNC110  a counter can't be awaited
            await asyncio.sleep(0.005)
    assert [await two.hears() for _ in range(10)] == [(one.id, bytes((n,))) for n in range(10)]
    two.client.send(one.id, b"still there")
    assert await one.hears() == (two.id, b"still there")


async def test_one_who_takes_nothing_loses_the_oldest_and_holds_up_nobody(
    relay: Relays, caller: Callers, line: Lines
) -> None:
    there = await relay(limits=RelayLimits(queue_bytes=20_000))
    slow = await _enters(await caller(there), ONE)
    transport = slow.socket._response.connection.transport  # type: ignore[union-attr]
    transport.pause_reading()
    one, two = await line(there), await line(there)
    async with asyncio.timeout(60):
        while not there.server.hub.dropped["queue"]:
            for _ in range(200):
                one.client.send(ONE.endpoint_id, bytes(1_200))
            one.client.send(two.id, b"and you?")
            assert await two.hears() == (one.id, b"and you?")
    session = next(s for s in there.server.hub.sessions if s.endpoint_id == ONE.endpoint_id)
    assert sum(map(len, session.queue._frames)) <= 20_000
    assert two.client.connected
    transport.resume_reading()


async def test_a_full_relay_refuses_and_says_so(relay: Relays, line: Lines) -> None:
    there = await relay(limits=RelayLimits(clients=1))
    await line(there)
    late = await line(there, wait=False)
    await late.fails("this relay has 1 clients already")


async def test_one_address_can_not_keep_newcomers_out(relay: Relays, caller: Callers) -> None:
    there = await relay()
    silent = [await caller(there) for _ in range(RELAY_UNPROVEN_PER_ADDRESS)]
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        await caller(there)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as elsewhere,
        elsewhere.ws_connect("ws://{}:{}/relay".format(*there.address)) as socket,
    ):
        assert (await socket.receive()).type is aiohttp.WSMsgType.BINARY  # it is asked for its proof
    await _enters(silent[0], ONE)  # and is unproven no more
    await _enters(await caller(there), TWO)


async def test_a_second_connection_with_the_same_key_ends_the_first(relay: Relays, caller: Callers) -> None:
    there = await relay()
    first = await _enters(await caller(there), ONE)
    second = await _enters(await caller(there), ONE)
    assert await first.refused() == "replaced"
    await second.says(Datagram(TWO.endpoint_id, b"x"))
    assert await second.hears() == Gone(TWO.endpoint_id)


# --- the relay's own life ------------------------------------------------------------------------------


async def test_clients_find_a_relay_that_restarts(relay: Relays, line: Lines) -> None:
    there = await relay()
    one, two = await line(there), await line(there)
    await one.reaches(two)
    await there.close()
    await asyncio.gather(one.fails("stopping"), two.fails("stopping"))
    assert not one.client.connected
    await relay(port=there.address[1])
    await asyncio.gather(one.connects(), two.connects())
    while not two.heard.empty():
        two.heard.get_nowait()
    await one.reaches(two)


async def test_what_is_not_a_relay_is_told_apart(relay: Relays) -> None:
    there = await relay()
    base = "http://{}:{}".format(*there.address)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/relay") as answer:
            assert answer.status == 426
            assert (await answer.json())["error"] == "upgrade_required"
        async with session.get(f"{base}/healthz") as answer:
            assert (await answer.json())["status"] == "healthy"


async def test_a_relay_tells_where_a_clients_datagrams_come_from(relay: Relays, line: Lines) -> None:
    one = await line(await relay())
    assert one.client.probe is not None
    address, datagram = one.client.probe
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        udp.sendto(datagram[:-1] + b"?", address)  # another's token, or nobody's
        udp.sendto(datagram, address)
        async with asyncio.timeout(30):
            while one.client.observed is None:  # noqa: ASYNC110  an attribute can't be awaited
                await asyncio.sleep(0.005)
        assert one.client.observed == udp.getsockname()
        with pytest.raises(BlockingIOError):
            udp.recv(1)  # nothing comes back by UDP, to whoever is named as the sender
