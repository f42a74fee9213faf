"""The handshake as an in-memory pair: who is let in, and that nothing else is."""

from __future__ import annotations

import dataclasses
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.errors import HandshakeError
from aspen.identity import Cookie, Cookies, Identity
from aspen.net.handshake import Credentials, DiallerHandshake, Hello, ListenerHandshake, Peer

ALPN = "aspen-raft/1"
ALICE, BOB, MALLORY = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
CLUSTER = b"C" * 16


def credentials(identity, node_id=1, *, cookie="the right cookie", cluster=CLUSTER, version=1, admit=None):
    hello = Hello(version, cluster, node_id, bytes([node_id]) * 8)
    return Credentials(identity, Cookies(Cookie(cookie)), lambda: hello, admit or (lambda peer: None))


def dialler(mine=None, listener_id=BOB.endpoint_id, alpn=ALPN):
    return DiallerHandshake(mine or credentials(ALICE, 1), alpn, os.urandom(32), listener_id)


def listener(mine=None, alpn=ALPN):
    return ListenerHandshake(mine or credentials(BOB, 2), alpn, os.urandom(32))


def meet(d, h):
    """Carry bytes between the two until neither has more to say."""
    to_listener = d.start()
    while to_listener:
        to_dialler = h.receive(to_listener)
        to_listener = d.receive(to_dialler) if to_dialler else b""


def code_of(*handshakes):
    with pytest.raises(HandshakeError) as caught:
        meet(*handshakes)
    return caught.value.code


def test_both_sides_learn_who_the_other_is():
    d, h = dialler(), listener()
    meet(d, h)
    assert d.peer == Peer(BOB.endpoint_id, 2, CLUSTER, b"\x02" * 8)
    assert h.peer == Peer(ALICE.endpoint_id, 1, CLUSTER, b"\x01" * 8)


def test_nobody_is_proven_before_the_last_message():
    d, h = dialler(), listener()
    challenge = h.receive(d.start())
    proof = d.receive(challenge)
    assert d.peer is None
    assert h.peer is None
    welcome = h.receive(proof)
    assert h.peer is not None
    assert d.peer is None
    assert d.receive(welcome) == b""
    assert d.peer is not None


@given(st.integers(1, 9))
def test_messages_may_be_cut_anywhere(size):
    d, h = dialler(), listener()
    sides, data = [h, d], d.start()
    while data:
        side = sides[0]
        data = b"".join(side.receive(data[at : at + size]) for at in range(0, len(data), size))
        sides.reverse()
    assert d.peer is not None
    assert h.peer is not None


def test_a_dialler_with_another_cookie_is_refused():
    d, h = dialler(credentials(ALICE, cookie="another cookie")), listener()
    assert code_of(d, h) == "wrong_cookie"
    assert h.peer is None


def test_a_listener_with_another_cookie_is_refused():
    """It may wave everyone through, but it can't make the welcome."""

    class Gullible(ListenerHandshake):
        def _check_mac(self, known, role, proven, mac_untrusted):
            return next(iter(known))

    d = dialler()
    h = Gullible(credentials(BOB, 2, cookie="another cookie"), ALPN, os.urandom(32))
    assert code_of(d, h) == "wrong_cookie"
    assert d.peer is None


def test_a_stranger_hears_nothing_that_depends_on_the_cookie():
    """A listener's only words before the dialler's proof are the same under any cookie."""
    first = dialler().start()
    replies = []
    for cookie in ("the right cookie", "another cookie"):
        h = ListenerHandshake(credentials(BOB, 2, cookie=cookie), ALPN, b"N" * 32)
        replies.append(h.receive(first))
    assert replies[0] == replies[1]


def test_naming_a_key_one_does_not_hold_is_refused():
    forged = dataclasses.replace(MALLORY, endpoint_id=ALICE.endpoint_id)
    assert code_of(dialler(credentials(forged)), listener()) == "wrong_key"


def test_this_nodes_own_key_at_the_other_end_is_refused():
    assert code_of(dialler(credentials(BOB, 2)), listener()) == "wrong_key"


@pytest.mark.parametrize("code", ["node_id_claimed", "foreign_cluster"])
def test_either_side_may_decline_a_proven_peer(code):
    assert code_of(dialler(), listener(credentials(BOB, 2, admit=lambda peer: code))) == code
    assert code_of(dialler(credentials(ALICE, 1, admit=lambda peer: code)), listener()) == code


def test_an_unknown_reason_is_counted_under_one_code():
    assert (
        code_of(dialler(), listener(credentials(BOB, 2, admit=lambda peer: "just because"))) == "not_admitted"
    )


def test_admit_sees_only_proven_peers():
    asked = []
    mine = credentials(BOB, 2, admit=asked.append)
    assert code_of(dialler(credentials(ALICE, cookie="another cookie")), listener(mine)) == "wrong_cookie"
    assert asked == []
    meet(dialler(), listener(mine))
    assert [peer.endpoint_id for peer in asked] == [ALICE.endpoint_id]


def test_another_protocol_version_is_refused_by_whoever_reads_it_first():
    assert code_of(dialler(credentials(ALICE, version=2)), listener()) == "version"
    d = dialler()
    newer = listener(credentials(BOB, 2, version=2))
    newer._check_version = lambda message, kind: message[3:]
    assert code_of(d, newer) == "version"


def test_a_captured_handshake_proves_nothing_to_a_new_connection():
    d, h = dialler(), listener()
    first = d.start()
    proof = d.receive(h.receive(first))
    again = listener()
    again.receive(first)
    with pytest.raises(HandshakeError) as caught:
        again.receive(proof)
    assert caught.value.code == "wrong_cookie"
    assert again.peer is None


def test_a_captured_welcome_proves_nothing_either():
    d, h = dialler(), listener()
    challenge = h.receive(d.start())
    welcome = h.receive(d.receive(challenge))
    later = dialler()
    later.start()
    later.receive(challenge)
    with pytest.raises(HandshakeError):
        later.receive(welcome)
    assert later.peer is None


def test_a_proof_meant_for_one_listener_does_not_serve_with_another():
    """A member that is dialled can't pass the dialler's proof on to a third node."""
    d = dialler(listener_id=MALLORY.endpoint_id)
    assert code_of(d, listener()) == "wrong_cookie"


def test_a_proof_made_for_one_protocol_does_not_serve_for_another():
    assert code_of(dialler(alpn="aspen-client/1"), listener()) == "wrong_cookie"


def test_a_diallers_own_proof_is_no_welcome():
    d, h = dialler(), listener()
    proof = d.receive(h.receive(d.start()))
    mac = proof[-32:]
    with pytest.raises(HandshakeError) as caught:
        d.receive(b"\x00\x21\x04" + mac)
    assert caught.value.code == "wrong_cookie"


def test_words_after_the_handshake_are_refused():
    d, h = dialler(), listener()
    meet(d, h)
    with pytest.raises(HandshakeError) as caught:
        h.receive(b"\x00\x01\x01")
    assert caught.value.code == "malformed"


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_random_bytes_prove_nobody(data):
    for side in (listener(), dialler()):
        try:
            side.receive(data)
        except HandshakeError:
            pass
        assert side.peer is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2), st.data())
def test_a_changed_bit_anywhere_proves_nobody(message, data):
    d, h = dialler(), listener()
    steps = [h.receive, d.receive, h.receive]
    sent = d.start()
    for number, step in enumerate(steps):
        if number == message:
            bit = data.draw(st.integers(16, len(sent) * 8 - 1))  # the length is only framing
            changed = bytearray(sent)
            changed[bit // 8] ^= 1 << bit % 8
            sent = bytes(changed)
        try:
            sent = step(sent)
        except HandshakeError:
            break
    assert h.peer is None
    assert d.peer is None


# --- without a cookie -----------------------------------------------------------------------------


def stranger(identity, node_id=0):
    hello = Hello(1, bytes(16), node_id, b"\x07" * 8)
    return Credentials(identity, None, lambda: hello, lambda peer: None)


def test_strangers_prove_their_keys_where_they_may_come_in():
    d, h = dialler(stranger(ALICE)), listener(stranger(BOB, 2))
    meet(d, h)
    assert (d.peer.endpoint_id, h.peer.endpoint_id) == (BOB.endpoint_id, ALICE.endpoint_id)
    forged = dataclasses.replace(MALLORY, endpoint_id=ALICE.endpoint_id)
    assert code_of(dialler(stranger(forged)), listener(stranger(BOB, 2))) == "wrong_key"


def test_a_strangers_captured_handshake_proves_nothing_to_a_new_connection():
    d, h = dialler(stranger(ALICE)), listener(stranger(BOB, 2))
    hello = d.start()
    proof = d.receive(h.receive(hello))
    again = listener(stranger(BOB, 2))
    again.receive(hello)
    with pytest.raises(HandshakeError) as caught:
        again.receive(proof)
    assert caught.value.code == "wrong_cookie"  # the MAC is over both nonces, secret or not
    assert again.peer is None


def test_no_cookie_is_not_a_cookie():
    """What opens a protocol for strangers opens no other."""
    assert code_of(dialler(stranger(ALICE)), listener()) == "wrong_cookie"
    assert code_of(dialler(), listener(stranger(BOB, 2))) == "wrong_cookie"
