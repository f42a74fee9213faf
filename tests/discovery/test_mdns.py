"""Multicast DNS on loopback: nodes of one cluster find each other, those of another are not seen."""

from __future__ import annotations

import asyncio
import os

import pytest

from aspen.discovery.mdns import Mdns, cluster_tag
from aspen.identity import Cookie

TOPIC, OTHER_TOPIC = b"a" * 32, b"b" * 32


class Book:
    """An address book that can be waited on."""

    def __init__(self) -> None:
        self.known: dict[bytes, set[tuple[str, int]]] = {}
        self._changed = asyncio.Condition()

    def add(self, endpoint_id: bytes, address: tuple[str, int], source: str) -> None:
        assert source == "mdns"
        self.known.setdefault(endpoint_id, set()).add(address)
        self._task = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def has(self, endpoint_id: bytes, address: tuple[str, int], within_s: float = 20) -> None:
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: address in self.known.get(endpoint_id, ()))


class Node:
    def __init__(self, topic: bytes, port: int, *accepted: bytes) -> None:
        self.topics = [topic, *accepted]
        self.endpoint_id = os.urandom(31) + b"\0"
        self.address = ("127.0.0.1", port)
        self.book = Book()
        self.mdns = Mdns(
            self.endpoint_id, lambda: self.topics, self.book, lambda: [self.address], "127.0.0.1"
        )


async def test_nodes_of_a_cluster_find_each_other_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.discovery.mdns.MDNS_REFRESH_MS", 200)
    a, b, stranger = Node(TOPIC, 17_001), Node(TOPIC, 17_002), Node(OTHER_TOPIC, 17_003)
    for node in (a, b, stranger):
        node.mdns.start()
    try:
        await a.book.has(b.endpoint_id, b.address)
        await b.book.has(a.endpoint_id, a.address)
        # A node that moves is found again.
        b.address = ("127.0.0.1", 17_009)
        await a.book.has(b.endpoint_id, b.address)
        assert stranger.endpoint_id not in a.book.known
        assert not stranger.book.known
    finally:
        await asyncio.gather(*(node.mdns.stop() for node in (a, b, stranger)))


async def test_while_the_cookie_is_changed_nodes_hear_of_those_who_use_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aspen.discovery.mdns.MDNS_REFRESH_MS", 200)
    ahead, behind = Node(OTHER_TOPIC, 17_011, TOPIC), Node(TOPIC, 17_012, OTHER_TOPIC)
    for node in (ahead, behind):
        node.mdns.start()
    try:
        await ahead.book.has(behind.endpoint_id, behind.address)
        await behind.book.has(ahead.endpoint_id, ahead.address)
    finally:
        await asyncio.gather(*(node.mdns.stop() for node in (ahead, behind)))


async def test_no_network_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()

    def none(*_: object, **__: object) -> None:
        tried.set()
        raise OSError("no such device")

    monkeypatch.setattr("aspen.discovery.mdns.AsyncZeroconf", none)
    node = Node(TOPIC, 17_001)
    node.mdns.start()
    await asyncio.wait_for(tried.wait(), 30)
    await node.mdns.stop()


def test_the_tag_says_nothing_of_the_cookie() -> None:
    cookie = "a cookie nobody would guess"
    topic = Cookie(cookie).derive("aspen 2026 gossip topic v1")
    tag = cluster_tag(topic)
    assert len(tag) == 16
    assert tag not in topic.hex()
    assert tag != cluster_tag(Cookie(cookie + "2").derive("aspen 2026 gossip topic v1"))
