"""Changing the cookie step by step: what a listener takes, what a dialler proves with, and what it costs."""

from __future__ import annotations

import os

import pytest

from aspen.errors import HandshakeError
from aspen.identity import Cookie, Cookies, Identity
from aspen.net.handshake import Credentials, DiallerHandshake, Hello, ListenerHandshake

OLD, NEW, OTHER = Cookie("the cookie of old"), Cookie("the cookie to come"), Cookie("some other cookie")
ALPN = "aspen-raft/1"


def credentials(*cookies: Cookie) -> Credentials:
    hello = Hello(1, bytes(16), 1, bytes(8))
    return Credentials(Identity.generate(), Cookies(*cookies), lambda: hello, lambda peer: None)


def meet(dialling: Credentials, listening: Credentials) -> None:
    """Raises `HandshakeError` if they don't come together."""
    listener = ListenerHandshake(listening, ALPN, os.urandom(32))
    dialler = DiallerHandshake(dialling, ALPN, os.urandom(32), listening.identity.endpoint_id)
    data = dialler.start()
    while data:
        reply = listener.receive(data)
        data = dialler.receive(reply) if reply else b""
    assert dialler.peer is not None
    assert listener.peer is not None


# Each step as (the cookies of a node that has taken it): any two neighbours of this list may meet.
STEPS = ((OLD,), (OLD, NEW), (NEW, OLD), (NEW,))


@pytest.mark.parametrize("step", range(len(STEPS) - 1))
def test_nodes_one_step_apart_admit_each_other(step: int) -> None:
    before, after = STEPS[step], STEPS[step + 1]
    for one, other in ((before, after), (after, before), (before, before), (after, after)):
        meet(credentials(*one), credentials(*other))


def test_a_step_left_out_shows() -> None:
    with pytest.raises(HandshakeError) as refused:
        meet(credentials(NEW, OLD), credentials(OLD))
    assert refused.value.code == "wrong_cookie"


def test_a_cookie_that_is_retired_is_refused() -> None:
    listening = Cookies(NEW, OLD)
    hello = Hello(1, bytes(16), 1, bytes(8))
    mine = Credentials(Identity.generate(), listening, lambda: hello, lambda peer: None)
    meet(credentials(OLD), mine)
    listening.change(NEW)
    with pytest.raises(HandshakeError, match="cookie"):
        meet(credentials(OLD), mine)
    meet(credentials(NEW), mine)


def test_an_accepted_cookie_is_never_used_to_dial() -> None:
    with pytest.raises(HandshakeError):
        meet(credentials(OLD, NEW), credentials(NEW))


def test_a_stranger_stays_a_stranger_whatever_is_accepted() -> None:
    with pytest.raises(HandshakeError):
        meet(credentials(OTHER), credentials(NEW, OLD))


def test_a_change_in_the_middle_of_a_handshake_does_it_no_harm() -> None:
    cookies = Cookies(OLD, NEW)
    hello = Hello(1, bytes(16), 1, bytes(8))
    dialling = Credentials(Identity.generate(), cookies, lambda: hello, lambda peer: None)
    listening = credentials(OLD, NEW)
    listener = ListenerHandshake(listening, ALPN, os.urandom(32))
    dialler = DiallerHandshake(dialling, ALPN, os.urandom(32), listening.identity.endpoint_id)
    challenge = listener.receive(dialler.start())
    cookies.change(NEW, OLD)
    dialler.receive(listener.receive(dialler.receive(challenge)))
    assert dialler.peer is not None
