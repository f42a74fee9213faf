"""Whoever may not talk Raft to us does not: refused, counted, logged seldom, and never heard."""

from __future__ import annotations

import asyncio
import os

import structlog
from stations import CLUSTER_ID, COOKIE

from aspen.identity import Cookie, Cookies, Identity
from aspen.net.frames import encode_frames
from aspen.net.handshake import Credentials, DiallerHandshake, Hello
from aspen.net.refusals import Refusals

FRAMES = 2  # the dialler's first unidirectional stream


def handshake_with(target, *, identity=None, cookie=COOKIE, node_id=9):
    """What an honest dialler says to `target`, message by message."""
    hello = Hello(1, CLUSTER_ID, node_id, os.urandom(8))
    mine = Credentials(
        identity or Identity.generate(), Cookies(Cookie(cookie)), lambda: hello, lambda peer: None
    )
    return DiallerHandshake(mine, "aspen-raft/1", os.urandom(32), target.id)


async def refused(a, b, code):
    """a sends to b and both sides count the refusal; b hears nothing."""
    assert a.knows(b).send(b, b"let me in")
    await b.refuses(code)
    await a.refuses(code)
    await a.loses(b)
    assert b.heard.empty()
    assert b.endpoint.connections() == []


async def test_a_wrong_cookie_is_refused(station):
    await refused(await station(1, cookie="a cookie of another cluster"), await station(2), "wrong_cookie")


async def test_a_foreign_cluster_is_refused(station):
    await refused(await station(1, cluster_id=b"X" * 16), await station(2), "foreign_cluster")


async def test_another_protocol_version_is_refused(station):
    await refused(await station(1, version=2), await station(2), "version")


async def test_a_node_id_claimed_by_another_key_is_refused(station):
    owner = Identity.generate()

    def admit(peer):
        return "node_id_claimed" if peer.node_id == 1 and peer.endpoint_id != owner.endpoint_id else None

    b = await station(2, admit=admit)
    rightful = await station(1, identity=owner)
    rightful.knows(b).send(b, b"it is me")
    assert await b.hears() == b"it is me"
    await refused_again(await station(1), b)


async def refused_again(impostor, b):
    assert impostor.knows(b).send(b, b"no, me")
    await b.refuses("node_id_claimed")
    await impostor.refuses("node_id_claimed")
    assert b.heard.empty()


async def test_a_dialler_does_not_speak_to_another_key_than_it_dialled(station):
    a, impostor = await station(1), await station(2)
    dialled = Identity.generate().endpoint_id
    a.book.add(dialled, impostor.address, "gossip")
    assert a.channel.send(dialled, [b"for your eyes only"])
    await a.refuses("wrong_key")
    assert impostor.heard.empty()
    assert a.endpoint.connections() == []


async def test_a_dialler_declines_a_listener_it_may_not_talk_to(station):
    a, b = await station(1, admit=lambda peer: "node_id_claimed"), await station(2)
    assert a.knows(b).send(b, b"hello?")
    await a.refuses("node_id_claimed")
    await a.loses(b)
    assert b.heard.empty()


async def test_a_replayed_handshake_is_refused(station, stranger):
    b = await station(2)
    honest = await stranger(b)
    handshake = handshake_with(b)
    first = handshake.start()
    honest.write(0, first)
    proof = handshake.receive(await honest.reads())
    honest.write(0, proof)
    handshake.receive(await honest.reads())
    assert handshake.peer is not None  # what was captured did open a connection once
    thief = await stranger(b)
    thief.write(0, first)
    await thief.reads()
    thief.write(0, proof)
    assert await thief.closed_by_peer() == "wrong_cookie"
    assert b.endpoint.refusals["wrong_cookie"] == 1


async def test_frames_before_the_handshake_close_the_connection(station, stranger):
    b = await station(2)
    rude = await stranger(b)
    rude.write(FRAMES, encode_frames([b"obey"]))
    assert await rude.closed_by_peer() == "malformed"
    assert b.heard.empty()


async def test_frames_between_hello_and_proof_close_the_connection(station, stranger):
    b = await station(2)
    rude = await stranger(b)
    rude.write(0, handshake_with(b).start())
    await rude.reads()
    rude.write(FRAMES, encode_frames([b"obey"]))
    assert await rude.closed_by_peer() == "malformed"
    assert b.heard.empty()


async def test_frames_beside_a_wrong_proof_are_not_heard(station, stranger):
    b = await station(2)
    rude = await stranger(b)
    handshake = handshake_with(b, cookie="a cookie of another cluster")
    rude.write(0, handshake.start())
    rude.write(0, handshake.receive(await rude.reads()))
    rude.write(FRAMES, encode_frames([b"obey"]))
    assert await rude.closed_by_peer() in {"wrong_cookie", "malformed"}
    assert b.heard.empty()


async def test_other_streams_and_oversize_frames_close_even_a_members_connection(station, stranger):
    b = await station(2)
    for stream_id, data in ((6, b"x"), (FRAMES, b"\xff\xff\xff\xff")):
        member = await stranger(b)
        handshake = handshake_with(b)
        member.write(0, handshake.start())
        member.write(0, handshake.receive(await member.reads()))
        handshake.receive(await member.reads())
        member.write(stream_id, data)
        assert await member.closed_by_peer() == "malformed"
    assert b.heard.empty()


async def test_an_unknown_application_protocol_is_refused(station, stranger):
    b = await station(2)
    try:
        await stranger(b, alpn="aspen-poetry/1")
    except ConnectionError:
        pass
    await b.refuses("version")


async def test_a_client_that_never_finishes_its_handshake_times_out(station, stranger, monkeypatch):
    monkeypatch.setattr("aspen.net.connection.NET_HANDSHAKE_MS", 100)
    b = await station(2)
    slow = await stranger(b)
    assert await slow.closed_by_peer() == "timeout"
    assert b.endpoint.refusals["timeout"] == 1
    assert not b.endpoint._transceiver.connections


async def test_unproven_connections_are_bounded_and_the_oldest_makes_room(station, stranger, monkeypatch):
    monkeypatch.setattr("aspen.net.transceiver.NET_UNAUTHENTICATED", 3)
    a, b = await station(1), await station(2)
    crowd = [await stranger(b) for _ in range(3)]
    a.knows(b).send(b, b"let me through")
    assert await crowd[0].closed_by_peer() == "too_many"
    assert await b.hears() == b"let me through"
    assert b.endpoint.refusals["too_many"] == 1
    assert len(b.endpoint._transceiver.connections) == 3  # two of the crowd, and a


async def test_connections_are_bounded(station, stranger, monkeypatch):
    monkeypatch.setattr("aspen.net.transceiver.NET_CONNECTIONS", 2)
    b = await station(2)
    await stranger(b)
    await stranger(b)
    late = asyncio.ensure_future(stranger(b, idle_s=0.3))
    await b.refuses("too_many")
    assert len(b.endpoint._transceiver.connections) == 2
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)


async def test_in_a_crowd_newcomers_must_prove_their_address_and_members_still_get_in(
    station, stranger, monkeypatch
):
    monkeypatch.setattr("aspen.net.transceiver.NET_RETRY_ABOVE", 2)
    a, b = await station(1), await station(2)
    for _ in range(3):
        await stranger(b)
    assert a.knows(b).send(b, b"let me through")
    assert await b.hears() == b"let me through"


async def test_an_unproven_client_gets_little_memory(station, stranger):
    """Far offsets in a stream would make the receiver allocate the gap."""
    b = await station(2)
    greedy = await stranger(b)
    greedy.write(0, b"\x00\x20" + bytes(400_000))
    assert await greedy.closed_by_peer() == "malformed"
    assert not b.endpoint._transceiver.connections


async def test_a_kind_of_refusal_is_logged_once_a_minute_and_tells_no_secret(station, stranger):
    now = [1000.0]
    with structlog.testing.capture_logs() as logs:
        b = await station(2, refusals=Refusals(lambda: now[0]))
        for count in range(1, 6):
            rude = await stranger(b)
            rude.write(FRAMES, b"x")
            await b.refuses("malformed", count)
        assert len([line for line in logs if line["event"] == "peer refused"]) == 1
        now[0] += 61
        rude = await stranger(b)
        rude.write(FRAMES, b"x")
        await b.refuses("malformed", 6)
        wrong = await station(1, cookie="a cookie of another cluster")
        wrong.knows(b).send(b, b"x")
        await b.refuses("wrong_cookie")
    lines = [line for line in logs if line["event"] == "peer refused" and not line["dialled"]]
    assert [(line["code"], line["unlogged"]) for line in lines] == [
        ("malformed", 0),
        ("malformed", 4),
        ("wrong_cookie", 0),
    ]
    text = repr(logs)
    for secret in (COOKIE, "a cookie of another cluster", b.identity.seed.hex(), repr(b.identity.seed)):
        assert secret not in text


async def test_who_is_refused_hears_from_whom_and_why(station):
    heard = []
    a = await station(1, on_refused=lambda endpoint_id, code: heard.append((endpoint_id, code)))
    b = await station(2, admit=lambda peer: "removed")
    await refused(a, b, "removed")
    assert heard == [(b.id, "removed")]


async def test_a_peer_let_in_before_can_be_turned_out(station):
    heard = []
    a = await station(1, on_refused=lambda endpoint_id, code: heard.append((endpoint_id, code)))
    b = await station(2)
    await a.knows(b).gets_through(b, b"hello")
    await b.knows(a).gets_through(a, b"hello yourself")
    assert await b.hears() == b"hello"
    assert await a.hears() == b"hello yourself"
    b.channel.recheck(lambda peer: None)
    assert len(b.endpoint.connections()) == 2
    b.channel.recheck(lambda peer: "removed" if peer.node_id == 1 else None)
    await a.refuses("removed", times=2)
    assert set(heard) == {(b.id, "removed")}
    assert b.endpoint.connections() == []


async def test_whoever_has_not_proven_its_key_refuses_nobody(station):
    heard = []
    a = await station(1, on_refused=lambda endpoint_id, code: heard.append((endpoint_id, code)))
    impostor = await station(2)
    victim = Identity.generate()
    a.book.add(victim.endpoint_id, impostor.address, "manual")
    assert a.channel.send(victim.endpoint_id, [b"let me in"])
    await a.refuses("wrong_key")
    assert heard == []
