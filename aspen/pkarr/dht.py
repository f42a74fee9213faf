"""A client of the BitTorrent DHT over one UDP socket: get and put signed packets (BEP 5, BEP 44).

Why not libtorrent: its Python binding puts only what it signs itself, with the secret key, and a relay has
none. What a client needs is small, so it is here: the walk is `dht_lookup`, the messages are `krpc`, and
this module has the socket, the clock and the random numbers.

Bounded: nodes remembered, queries of a lookup, time of a lookup. An answer counts only if it comes from the
address that was asked, with the transaction id that it was asked with.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog

from aspen.errors import ConfigError, InputError, PacketError
from aspen.limits import (
    DHT_ASKED_AT_ONCE,
    DHT_BOOTSTRAP_MS,
    DHT_CLOSEST,
    DHT_DATAGRAM_BYTES,
    DHT_LOOKUP_MS,
    DHT_NODES,
    DHT_QUERY_MS,
    DHT_SETTLE_MS,
)
from aspen.pkarr.bencode import Value
from aspen.pkarr.bep44 import item_fields, read_item, target
from aspen.pkarr.dht_lookup import Lookup
from aspen.pkarr.krpc import (
    ID_BYTES,
    TOO_OLD,
    Address,
    Answer,
    Contact,
    Query,
    Refusal,
    get_query,
    parse,
    put_query,
    refuse,
)
from aspen.pkarr.packet import SignedPacket

log = structlog.get_logger("aspen.pkarr.dht")

DEFAULT_BOOTSTRAP: Final = (
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "dht.libtorrent.org:25401",
    "relay.pkarr.org:6881",
)
_TRANSACTION_BYTES: Final = 4


def parse_bootstrap(texts: Sequence[str] | None) -> list[Address]:
    """`host:port` of nodes to begin at; the well-known ones if none is given. Raises `ConfigError`."""
    found: list[Address] = []
    for text in texts or DEFAULT_BOOTSTRAP:
        host, colon, port = text.strip().rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ConfigError(f"not a node of the DHT: {text!r} (as in {DEFAULT_BOOTSTRAP[0]})")
        found.append((host, int(port)))
    return found


class Found(NamedTuple):
    """What a lookup brought."""

    packet: SignedPacket | None
    """The most recent one found."""
    nodes_answered: int
    """None at all: nothing is known of the DHT."""


class Stored(NamedTuple):
    """What became of a publication."""

    nodes: int
    """That say they have stored the packet."""
    newer: SignedPacket | None
    """A more recent packet that is there already; nothing was stored."""
    refusals: tuple[str, ...]
    """What the other nodes said."""


class DhtClient:
    """Start it, then `get` and `put`, any number at a time; the caller bounds how many."""

    def __init__(self, bootstrap: Sequence[Address], *, host: str = "0.0.0.0", port: int = 0) -> None:  # noqa: S104  (it asks; nobody may ask it)
        """`bootstrap`: host names or IPv4 addresses, and ports, of nodes that lead to others."""
        self._bootstrap = tuple(bootstrap)
        self._bind = (host, port)
        self.own_id = secrets.token_bytes(ID_BYTES)
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: dict[tuple[bytes, Address], asyncio.Future[Answer | Refusal | None]] = {}
        self._nodes: dict[Address, bytes] = {}
        """Nodes that answered lately, oldest first: where lookups begin."""
        self._bootstrap_found: tuple[Address, ...] = ()
        self._bootstrap_found_at = -float("inf")

    async def start(self) -> None:
        """Raises `ConfigError` if the socket can't be bound."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Receiver(self._received), local_addr=self._bind, family=socket.AF_INET
            )
        except OSError as error:
            raise ConfigError(f"the DHT can't bind {self._bind[0]}:{self._bind[1]}: {error}") from None

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        for waiter in self._waiting.values():
            waiter.cancel()
        self._waiting.clear()

    @property
    def nodes_known(self) -> int:
        return len(self._nodes)

    async def get(self, public_key: bytes, timeout_ms: int = DHT_LOOKUP_MS) -> Found:
        """The most recent packet that the nodes closest to a key have, or those that answer in time."""
        walk = _Walk(self, public_key)
        await walk.run(await self._beginning(public_key), timeout_ms, DHT_SETTLE_MS)
        return Found(walk.best, walk.lookup.answers)

    async def put(self, packet: SignedPacket, timeout_ms: int = DHT_LOOKUP_MS) -> Stored:
        """Publish a packet with the nodes closest to its key, unless a more recent one is there."""
        walk = _Walk(self, packet.public_key)
        await walk.run(await self._beginning(packet.public_key), timeout_ms)
        if walk.best is not None and walk.best.more_recent_than(packet):
            return Stored(0, walk.best, ())
        fields = item_fields(packet)
        said = await asyncio.gather(
            *(
                self._ask(each.address, partial(_put, self.own_id, each.token, fields))
                for each in walk.lookup.closest
                if each.token is not None
            )
        )
        refusals = tuple(
            "a more recent packet is there" if each.code == TOO_OLD else f"{each.code} {each.text}"
            for each in said
            if isinstance(each, Refusal)
        )
        return Stored(sum(isinstance(each, Answer) for each in said), None, refusals)

    async def ask_for(self, address: Address, wanted: bytes) -> Answer | None:
        """One `get` to one node; None if it doesn't answer."""
        said = await self._ask(address, lambda transaction: get_query(transaction, self.own_id, wanted))
        if not isinstance(said, Answer):
            self._nodes.pop(address, None)
            return None
        self._nodes.pop(address, None)
        self._nodes[address] = said.node_id
        while len(self._nodes) > DHT_NODES:
            del self._nodes[next(iter(self._nodes))]
        return said

    async def _ask(self, address: Address, query: Callable[[bytes], bytes]) -> Answer | Refusal | None:
        if self._transport is None:
            return None
        transaction = secrets.token_bytes(_TRANSACTION_BYTES)
        waiter: asyncio.Future[Answer | Refusal | None] = asyncio.get_running_loop().create_future()
        self._waiting[transaction, address] = waiter
        try:
            self._transport.sendto(query(transaction), address)
            async with asyncio.timeout(DHT_QUERY_MS / 1_000):
                return await waiter
        except (TimeoutError, OSError):
            return None
        finally:
            self._waiting.pop((transaction, address), None)

    def _received(self, datagram_untrusted: bytes, address: Address) -> None:
        try:
            message = parse(datagram_untrusted)
        except InputError:
            return  # anybody may send us anything
        if isinstance(message, Query):
            if self._transport is not None:
                self._transport.sendto(refuse(message), address)
            return
        waiter = self._waiting.get((message.transaction, address))
        if waiter is not None and not waiter.done():
            waiter.set_result(message)

    async def _beginning(self, public_key: bytes) -> tuple[list[Contact], tuple[Address, ...]]:
        """Where a walk begins: nodes that answered lately, and the bootstrap nodes if those are few."""
        wanted = int.from_bytes(target(public_key), "big")
        known = sorted(
            (Contact(node_id, address) for address, node_id in self._nodes.items()),
            key=lambda contact: int.from_bytes(contact.node_id, "big") ^ wanted,
        )[: 2 * DHT_CLOSEST]
        return known, () if len(self._nodes) >= 2 * DHT_CLOSEST else await self._bootstrap_addresses()

    async def _bootstrap_addresses(self) -> tuple[Address, ...]:
        loop = asyncio.get_running_loop()
        if self._bootstrap_found and loop.time() - self._bootstrap_found_at < DHT_BOOTSTRAP_MS / 1_000:
            return self._bootstrap_found
        found: dict[Address, None] = {}
        answers = await asyncio.gather(
            *(
                loop.getaddrinfo(*each, family=socket.AF_INET, type=socket.SOCK_DGRAM)
                for each in self._bootstrap
            ),
            return_exceptions=True,
        )
        for each in answers:
            if not isinstance(each, BaseException):
                found.update(((str(info[4][0]), int(info[4][1])), None) for info in each)
        self._bootstrap_found, self._bootstrap_found_at = tuple(found), loop.time()
        return self._bootstrap_found


def _put(own_id: bytes, token: bytes, fields: Mapping[bytes, Value], transaction: bytes) -> bytes:
    return put_query(transaction, own_id, token, fields)


class _Walk:
    """A lookup under way: its queries, and the best packet they brought."""

    def __init__(self, client: DhtClient, public_key: bytes) -> None:
        self._client = client
        self._public_key = public_key
        self._target = target(public_key)
        self.best: SignedPacket | None = None
        self.lookup: Lookup

    async def run(
        self,
        beginning: tuple[list[Contact], tuple[Address, ...]],
        timeout_ms: int,
        settle_ms: int | None = None,
    ) -> None:
        """With `settle_ms`, not much longer than until something was found."""
        self.lookup = lookup = Lookup(self._target, *beginning)
        asking: set[asyncio.Task[None]] = set()
        now = asyncio.get_running_loop().time
        ends_at = now() + timeout_ms / 1_000
        try:
            while not lookup.done and now() < ends_at:
                for address in lookup.next_to_ask(DHT_ASKED_AT_ONCE):
                    asking.add(asyncio.create_task(self._ask(address)))
                if not asking:
                    return
                _, asking = await asyncio.wait(
                    asking, timeout=ends_at - now(), return_when=asyncio.FIRST_COMPLETED
                )
                if settle_ms is not None and self.best is not None:
                    ends_at = min(ends_at, now() + settle_ms / 1_000)
                    settle_ms = None
        finally:
            for task in asking:
                task.cancel()

    async def _ask(self, address: Address) -> None:
        answer = await self._client.ask_for(address, self._target)
        if answer is None:
            self.lookup.failed(address)
            return
        others = (each for each in answer.contacts if each.node_id != self._client.own_id)
        self.lookup.answered(address, answer.node_id, others, answer.token)
        self._consider(answer.fields, address)

    def _consider(self, fields_untrusted: Mapping[bytes, Value], address: Address) -> None:
        try:
            packet = read_item(self._public_key, fields_untrusted)
        except PacketError as error:
            log.debug("a node's item was refused", node=address, check=error.code, reason=str(error))
            return
        if packet is not None and (self.best is None or packet.more_recent_than(self.best)):
            self.best = packet


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if len(data) <= DHT_DATAGRAM_BYTES:
            self._received(data, (str(addr[0]), int(addr[1])))

    def error_received(self, exc: Exception) -> None:
        pass  # a node that can't be reached; its query runs out of time
