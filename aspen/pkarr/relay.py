"""The pkarr relay: signed packets in and out by HTTP (https://pkarr.org, "Relays").

`PUT` follows one straight line: read → verify → compare with the local replica → replicate →
answer. The replica decides only what it can be sure of: a packet older than one that is already
replicated is refused (409), one that is there and fresh costs no log entry (204). Everything
else is decided where all nodes decide alike, when the command is applied.

Two spellings of the path are served: `/pkarr/{key}`, as iroh uses, and `/{key}`, as pkarr does.
Bodies are payloads: signature ‖ timestamp ‖ DNS message. The key stands in the URL only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from hashlib import blake2b
from typing import Final, Protocol

from aiohttp import web

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.errors import HttpError, InvariantViolation, PacketError
from aspen.http.errors import problem
from aspen.http.freshness import freshness_headers
from aspen.http.request import read_body
from aspen.http.routing import Handler, Request, Router
from aspen.limits import (
    PKARR_CACHE_MAX_MS,
    PKARR_CACHE_MIN_MS,
    PKARR_FUTURE_MS,
    PKARR_PAYLOAD_BYTES,
    PKARR_RENEW_MS,
)
from aspen.pkarr import relay_api
from aspen.pkarr.packet import MESSAGE_START, SignedPacket, order, parse_key
from aspen.pkarr.relay_api import RELAY_PAYLOAD, SIGNED_PACKET
from aspen.state.commands import Rejected
from aspen.state.packet_commands import PacketOutcome, PacketPut, PacketResult
from aspen.state.packets import PacketRecord
from aspen.state.ports import Proposer
from aspen.z32 import KEY_CHARS

_KEY_LIKE_CHARS: Final = 40
"""A path of one segment at least so long was meant as a key."""


class PacketReader(Protocol):
    """The packets of the local replica."""

    def get(self, public_key: bytes) -> PacketRecord | None: ...


def _wall_us() -> int:
    return time.time_ns() // 1_000


class Relay:
    """The relay's handlers, over a way to write and a way to read."""

    def __init__(
        self, proposer: Proposer, packets: PacketReader, *, wall_us: Callable[[], int] = _wall_us
    ) -> None:
        """`wall_us`: microseconds since 1970, to tell timestamps from the future."""
        self._proposer = proposer
        self._packets = packets
        self._wall_us = wall_us

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

    async def put(self, request: Request, key_untrusted: str) -> web.StreamResponse:
        """204 once the packet is replicated, or was already; 409 if a more recent one is."""
        public_key = parse_key(key_untrusted)
        payload_untrusted = await read_body(request, PKARR_PAYLOAD_BYTES, code="size")
        packet = SignedPacket.parse(public_key, payload_untrusted)
        now_us = self._wall_us()
        if packet.timestamp_us > now_us + PKARR_FUTURE_MS * 1_000:
            raise PacketError(
                "timestamp",
                f"the packet's timestamp is {(packet.timestamp_us - now_us) // 1_000_000} seconds ahead "
                f"of this node's clock; at most {PKARR_FUTURE_MS // 1_000} are accepted",
            )
        stored = self._packets.get(public_key)
        if stored is not None:
            new, old = order(packet.payload), order(stored.payload)
            if new < old:
                return _older(stored.timestamp_us)
            unseen_ms = now_us // 1_000 - stored.received_at_ms
            if new == old and not stored.tombstone and unseen_ms < PKARR_RENEW_MS:
                return web.Response(status=204)
        result = await self._proposer.propose(PacketPut(public_key, packet.payload))
        if isinstance(result, Rejected):
            raise HttpError(400, "rejected", result.reason)
        if not isinstance(result, PacketResult):
            raise InvariantViolation("a packet was answered as if it were another command")
        if result.outcome is PacketOutcome.OLDER:
            return _older(result.timestamp_us)
        return web.Response(status=204)

    def _get_as(self, media_type: str) -> Handler:
        async def get(request: Request, key_untrusted: str) -> web.StreamResponse:
            public_key = parse_key(key_untrusted)
            headers = freshness_headers(self._proposer)
            stored = self._packets.get(public_key)
            if stored is None or stored.tombstone:
                return problem(404, "not_found", "no packet is stored under this key", headers)
            modified_at = min(stored.timestamp_us, self._wall_us()) // 1_000_000
            etag = _etag(stored)
            headers["ETag"] = f'"{etag}"'
            headers["Last-Modified"] = formatdate(modified_at, usegmt=True)
            headers["Cache-Control"] = f"public, max-age={_cache_seconds(stored.payload)}"
            headers["Vary"] = "Accept"
            if _unmodified(request, etag, modified_at):
                return web.Response(status=304, headers=headers)
            headers["Content-Type"] = _media_type(request, media_type)
            return web.Response(body=stored.payload, headers=headers)

        return get


def _bare(handler: Handler) -> Handler:
    """A handler for `/{key}`: what can't be meant as a key is an unknown path, not a bad key."""

    async def handle(request: Request, segment: str) -> web.StreamResponse:
        if "/" in segment or (len(segment) < _KEY_LIKE_CHARS and request.method != "PUT"):
            reason = f"there is nothing at this path (a key has {KEY_CHARS} characters)"
            return problem(404, "not_found", reason)
        return await handler(request, segment)

    return handle


def _older(stored_timestamp_us: int) -> web.Response:
    return problem(
        409, "older", "a more recent packet is stored under this key", stored_timestamp_us=stored_timestamp_us
    )


def _etag(stored: PacketRecord) -> str:
    """A strong validator, exact to the microsecond and beyond (RFC 9110 §8.8.3)."""
    return f"{stored.timestamp_us:x}-{blake2b(stored.payload, digest_size=8).hexdigest()}"


def _unmodified(request: Request, etag: str, modified_at: int) -> bool:
    """Whether the client has it already (RFC 9110 §13.2.2: the entity tag decides if given)."""
    if "If-None-Match" in request.headers:
        tags = request.if_none_match or ()
        return any(tag.value in (etag, "*") for tag in tags)
    since = request.if_modified_since
    return since is not None and modified_at <= since.timestamp()


def _cache_seconds(payload: bytes) -> int:
    """The least TTL of the packet's answers, within bounds; an empty packet may fill any moment."""
    message = payload[MESSAGE_START:]
    questions, answers, _, _ = section_counts(message)
    offset = skip_questions(message, questions)
    least_ms = PKARR_CACHE_MAX_MS if answers else 0
    for _ in range(answers):
        record = read_record(message, offset)
        least_ms = min(least_ms, record.ttl * 1_000)
        offset = record.rdata_end
    return max(PKARR_CACHE_MIN_MS, least_ms) // 1_000


def _media_type(request: Request, default: str) -> str:
    """The type of the path asked, unless `Accept` names only the other one."""
    accept = request.headers.get("Accept", "")
    if default in accept:
        return default
    return next((name for name in (SIGNED_PACKET, RELAY_PAYLOAD) if name in accept), default)
