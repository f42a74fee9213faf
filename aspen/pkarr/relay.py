"""The pkarr relay: signed packets in and out by HTTP (https://pkarr.org, "Relays").

`PUT` follows one straight line: may this client? → read → verify → may this key? → compare with the
local replica → replicate → answer. The replica decides only what it can be sure of: a packet older
than one that is already replicated is refused (409), one that is there and fresh costs no log entry
(204). Everything else is decided where all nodes decide alike, when the command is applied.

`GET` answers from the local replica, and from the network (the DHT) if there is one and the client
lets it. What comes from the network is verified but not replicated, and says so.

Two spellings of the path are served: `/pkarr/{key}`, as iroh uses, and `/{key}`, as pkarr does.
Bodies are payloads: signature ‖ timestamp ‖ DNS message. The key stands in the URL only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Protocol

from aiohttp import web

from aspen.errors import AspenError, HttpError, InvariantViolation, PacketError
from aspen.http.errors import problem
from aspen.http.freshness import freshness_headers
from aspen.http.request import query_of, read_body
from aspen.http.routing import Handler, Request, Router
from aspen.limits import PKARR_CACHE_MAX_MS, PKARR_CACHE_MIN_MS, PKARR_FUTURE_MS, PKARR_PAYLOAD_BYTES
from aspen.pkarr import relay_api
from aspen.pkarr.gate import Gate
from aspen.pkarr.measures import PutMeasures
from aspen.pkarr.packet import MESSAGE_START, SignedPacket, order, parse_key
from aspen.pkarr.ports import Network
from aspen.pkarr.relay_api import RELAY_PAYLOAD, SIGNED_PACKET
from aspen.state.commands import Rejected
from aspen.state.packet_commands import PacketOutcome, PacketPut, PacketResult
from aspen.state.packets import PacketLife, PacketRecord, PacketUsage, answer_ttls
from aspen.state.ports import Proposer
from aspen.tracing import CURRENT
from aspen.z32 import KEY_CHARS

_KEY_LIKE_CHARS: Final = 40
"""A path of one segment at least so long was meant as a key."""
_SOURCE: Final = "Aspen-Source"
_GET_PARAMETERS: Final = frozenset({"policy"})


class PacketReader(Protocol):
    """The packets of the local replica."""

    def get(self, public_key: bytes) -> PacketRecord | None: ...

    def usage(self) -> PacketUsage: ...


class Policy(StrEnum):
    """Where a GET looks."""

    CACHE_ONLY = "CacheOnly"
    CACHE_FIRST = "CacheFirst"
    NETWORK_ONLY = "NetworkOnly"


@dataclass(frozen=True, slots=True)
class RelayRules:
    """What the configuration says."""

    life: PacketLife = field(default_factory=PacketLife)
    future_ms: int = PKARR_FUTURE_MS
    """A timestamp further ahead of this node's clock is refused."""
    max_packets: int = 0
    """Packets under new keys are refused beyond so many; 0: no limit."""
    max_bytes: int = 0
    """The same, on disk."""


class _Answer(Protocol):
    """A packet to be served."""

    @property
    def timestamp_us(self) -> int: ...

    @property
    def payload(self) -> bytes: ...


def _wall_us() -> int:
    return time.time_ns() // 1_000


class Relay:
    """The relay's handlers, over a way to write and a way to read."""

    def __init__(
        self,
        proposer: Proposer,
        packets: PacketReader,
        *,
        rules: RelayRules | None = None,
        gate: Gate | None = None,
        network: Network | None = None,
        wall_us: Callable[[], int] = _wall_us,
    ) -> None:
        """`wall_us`: microseconds since 1970, to tell timestamps from the future and what has expired."""
        self._proposer = proposer
        self._packets = packets
        self._rules = rules if rules is not None else RelayRules()
        self._gate = gate if gate is not None else Gate()
        self._network = network
        self._wall_us = wall_us
        self.puts = PutMeasures()

    def add_routes(self, router: Router) -> None:
        get, get_bare = self._get_as(SIGNED_PACKET), self._get_as(RELAY_PAYLOAD)
        for path, handlers in (
            ("/pkarr/", {"PUT": self.put, "GET": get}),
            ("/", {"PUT": _bare(self.put), "GET": _bare(get_bare)}),
        ):
            router.add(
                path,
                handlers,
                public=True,
                operations={"PUT": relay_api.PUT, "GET": relay_api.GET},
                parameter=relay_api.KEY,
            )

    # --- PUT ----------------------------------------------------------------------------------

    async def put(self, request: Request, key_untrusted: str) -> web.StreamResponse:
        """204 once the packet is replicated, or was already; 409 if a more recent one is."""
        try:
            return await self._put(request, key_untrusted)
        except AspenError as error:
            self.puts.outcomes[getattr(error, "code", "failed")] += 1
            raise

    async def _put(self, request: Request, key_untrusted: str) -> web.StreamResponse:
        self._gate.before_put(request)
        public_key = parse_key(key_untrusted)
        began = time.monotonic()
        payload_untrusted = await read_body(request, PKARR_PAYLOAD_BYTES, code="size")
        received = time.monotonic()
        self.puts.receive_seconds.note(received - began)
        packet = SignedPacket.parse(public_key, payload_untrusted)
        verified = time.monotonic()
        self.puts.verify_seconds.note(verified - received)
        if (trace := CURRENT.get()) is not None:
            trace.received_s, trace.verified_s = received, verified
        now_us = self._wall_us()
        self._check_future(packet, now_us)
        self._gate.admit(public_key)
        stored = self._packets.get(public_key)
        if stored is None:
            self._check_room()
        else:
            new, old = order(packet.payload), stored.order
            if new < old:
                return self._older(stored.timestamp_us)
            unseen_ms = now_us // 1_000 - stored.received_at_ms
            if new == old and unseen_ms < self._rules.life.renew_ms(stored):
                return await self._accepted(packet, "known")
        self._gate.verified(request, public_key)
        command = PacketPut(public_key, packet.payload, _unless_after_us(request))
        result = await self._proposer.propose(command)
        self.puts.replicate_seconds.note(time.monotonic() - verified)
        if isinstance(result, Rejected):
            raise HttpError(400, "rejected", result.reason)
        if not isinstance(result, PacketResult):
            raise InvariantViolation("a packet was answered as if it were another command")
        if result.outcome is PacketOutcome.OLDER:
            return self._older(result.timestamp_us)
        if result.outcome is PacketOutcome.MODIFIED:
            self.puts.outcomes["modified"] += 1
            reason = "a packet later than If-Unmodified-Since is stored under this key"
            return problem(412, "modified", reason, stored_timestamp_us=result.timestamp_us)
        return await self._accepted(packet, "stored")

    def _check_future(self, packet: SignedPacket, now_us: int) -> None:
        ahead_us = packet.timestamp_us - now_us
        if ahead_us > self._rules.future_ms * 1_000:
            raise PacketError(
                "timestamp",
                f"the packet's timestamp is {ahead_us // 1_000_000} seconds ahead of this node's clock; "
                f"at most {self._rules.future_ms // 1_000} are accepted",
            )

    def _check_room(self) -> None:
        """Whether a packet under a new key has room. Those under way are not counted, so a few more
        than the limit may come in."""
        rules = self._rules
        if not rules.max_packets and not rules.max_bytes:
            return
        usage = self._packets.usage()
        if rules.max_packets and usage.packets >= rules.max_packets:
            raise HttpError(
                507, "full", f"this relay keeps {rules.max_packets} packets at most, and has them"
            )
        if rules.max_bytes and usage.disk_bytes >= rules.max_bytes:
            limit_mib = rules.max_bytes // 1_048_576
            raise HttpError(507, "full", f"this relay keeps {limit_mib} MiB of packets at most, and has them")

    async def _accepted(self, packet: SignedPacket, outcome: str) -> web.Response:
        self.puts.outcomes[outcome] += 1
        if self._network is not None:
            await self._network.publish(packet)
        return web.Response(status=204)

    def _older(self, stored_timestamp_us: int) -> web.Response:
        self.puts.outcomes["older"] += 1
        return problem(
            409,
            "older",
            "a more recent packet is stored under this key, or was deleted",
            stored_timestamp_us=stored_timestamp_us,
        )

    async def take_found(self, packet: SignedPacket) -> None:
        """Have a packet that was found elsewhere replicated, by the rules of a PUT.

        Raises `AspenError` if they refuse it, or if it can't be proposed now.
        """
        self._check_future(packet, self._wall_us())
        self._gate.admit(packet.public_key)
        stored = self._packets.get(packet.public_key)
        if stored is None:
            self._check_room()
        elif order(packet.payload) <= stored.order:
            return
        await self._proposer.propose(PacketPut(packet.public_key, packet.payload))

    def admits(self, public_key: bytes) -> bool:
        """Whether the lists let a key publish: what they don't is not fetched from elsewhere either."""
        try:
            self._gate.admit(public_key)
        except HttpError:
            return False
        return True

    # --- GET ----------------------------------------------------------------------------------

    def _get_as(self, media_type: str) -> Handler:
        async def get(request: Request, key_untrusted: str) -> web.StreamResponse:
            self._gate.before_get(request)
            public_key = parse_key(key_untrusted)
            policy = _policy(query_of(request, _GET_PARAMETERS, ignore_others=True).get("policy"))
            headers = freshness_headers(self._proposer)
            stored = self._packets.get(public_key)
            live = stored
            if stored is not None and (
                stored.tombstone or self._rules.life.is_over(stored, self._wall_us() // 1_000)
            ):
                live = None
            found, source = await self._find(policy, public_key, stored, live)
            if found is None:
                return _not_found(policy, stored, self._network is not None, headers)
            headers[_SOURCE] = source
            return self._serve(request, found, media_type, headers)

        return get

    async def _find(
        self, policy: Policy, public_key: bytes, stored: PacketRecord | None, live: PacketRecord | None
    ) -> tuple[_Answer | None, str]:
        """The packet to be served, and where it is from. Raises `NetworkError`."""
        if policy is Policy.CACHE_ONLY or (policy is Policy.CACHE_FIRST and live is not None):
            return live, "replica"
        if self._network is None:
            return None, ""
        # What was unpublished here is not to come back from elsewhere.
        newer_than_us = stored.timestamp_us if stored is not None and stored.tombstone else None
        found = await self._network.resolve(public_key, newer_than_us)
        if found is not None and live is not None and live.order >= order(found.payload):
            return live, "replica"
        return found, "network"

    def _serve(
        self, request: Request, found: _Answer, media_type: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        etag = _etag(found)
        headers["ETag"] = f'"{etag}"'
        modified_us = min(found.timestamp_us, self._wall_us())
        headers["Last-Modified"] = formatdate(modified_us // 1_000_000, usegmt=True)
        headers["Cache-Control"] = f"public, max-age={self._cache_seconds(found)}"
        headers["Vary"] = "Accept"
        if _unmodified(request, etag, modified_us):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = _media_type(request, media_type)
        return web.Response(body=found.payload, headers=headers)

    def _cache_seconds(self, found: _Answer) -> int:
        """The least TTL of the packet's answers, within bounds; an empty packet may fill any moment.

        If TTLs are strict, what is left of it.
        """
        ttls = list(answer_ttls(found.payload[MESSAGE_START:]))
        least_ms = 1_000 * min(ttls, default=0)
        if self._rules.life.strict_ttl:
            if isinstance(found, PacketRecord):
                least_ms -= self._wall_us() // 1_000 - found.received_at_ms
            return max(0, least_ms) // 1_000
        return min(max(PKARR_CACHE_MIN_MS, least_ms), PKARR_CACHE_MAX_MS) // 1_000


def _unless_after_us(request: Request) -> int | None:
    """`If-Unmodified-Since` (RFC 9110 §13.1.4), as pkarr's clients send the timestamp of the packet that
    theirs replaces. A date means its whole second; one that is none is ignored."""
    since = request.if_unmodified_since
    return None if since is None else int(since.timestamp()) * 1_000_000 + 999_999


def _policy(given: bytes | None) -> Policy:
    if given is None:
        return Policy.CACHE_FIRST
    try:
        return Policy(given.decode("ascii", "replace"))
    except ValueError:
        raise HttpError(400, "bad_query", f"policy is one of {', '.join(Policy)}") from None


def _not_found(
    policy: Policy, stored: PacketRecord | None, has_network: bool, headers: dict[str, str]
) -> web.Response:
    if policy is Policy.NETWORK_ONLY and not has_network:
        return problem(404, "no_network", "this relay has no network (DHT) to ask", headers)
    if stored is not None and stored.tombstone:
        reason = "the packet under this key was unpublished"
        return problem(404, "not_found", reason, headers, timestamp_us=stored.timestamp_us)
    return problem(404, "not_found", "there is no packet under this key", headers)


def _bare(handler: Handler) -> Handler:
    """A handler for `/{key}`: what can't be meant as a key is an unknown path, not a bad key."""

    async def handle(request: Request, segment: str) -> web.StreamResponse:
        if "/" in segment or (len(segment) < _KEY_LIKE_CHARS and request.method != "PUT"):
            reason = f"there is nothing at this path (a key has {KEY_CHARS} characters)"
            return problem(404, "not_found", reason)
        return await handler(request, segment)

    return handle


def _etag(packet: _Answer) -> str:
    """A strong validator, exact to the microsecond and beyond (RFC 9110 §8.8.3)."""
    return f"{packet.timestamp_us:x}-{blake2b(packet.payload, digest_size=8).hexdigest()}"


def _unmodified(request: Request, etag: str, modified_us: int) -> bool:
    """Whether the client has it already (RFC 9110 §13.2.2: the entity tag decides if given).

    A date knows seconds only, and of one second there may be several packets: so it counts only if
    the packet is no younger than the very beginning of that second.
    """
    if "If-None-Match" in request.headers:
        tags = request.if_none_match or ()
        return any(tag.value in (etag, "*") for tag in tags)
    since = request.if_modified_since
    return since is not None and modified_us <= int(since.timestamp()) * 1_000_000


def _media_type(request: Request, default: str) -> str:
    """The type of the path asked, unless `Accept` names only the other one."""
    accept = request.headers.get("Accept", "")
    if default in accept:
        return default
    return next((name for name in (SIGNED_PACKET, RELAY_PAYLOAD) if name in accept), default)
