"""Packets as an operator sees them: look, delete, and say which keys may publish. Admin routes all.

The lists are settings of the whole cluster, so every member keeps to them; a member's configuration
can add keys of its own.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from aiohttp import web

from aspen.errors import HttpError, InvariantViolation
from aspen.http.errors import json_response
from aspen.http.request import query_of, read_body
from aspen.http.routing import Request, Router
from aspen.limits import PKARR_REASON_BYTES
from aspen.pkarr import relay_api
from aspen.pkarr.explain import Field, explain
from aspen.pkarr.gate import ALLOWED, DENIED
from aspen.pkarr.packet import parse_key
from aspen.pkarr.relay_api import ListedKeys, PacketField, PacketInfo
from aspen.state.packet_commands import PacketDelete, PacketOutcome, PacketResult
from aspen.state.packets import PacketLife, PacketRecord
from aspen.state.ports import Proposer
from aspen.state.settings import SettingDelete, SettingPut, SettingResult
from aspen.z32 import encode_key

PATH: Final = "/v1/packets"
_NONE: Final[frozenset[str]] = frozenset()
_SHOW: Final = frozenset({"fields"})


class PacketReader(Protocol):
    def get(self, public_key: bytes) -> PacketRecord | None: ...


class SettingReader(Protocol):
    def under(self, prefix: str) -> dict[str, bytes]: ...


class PacketAdmin:
    """The handlers."""

    def __init__(
        self,
        proposer: Proposer,
        packets: PacketReader,
        settings: SettingReader,
        life: PacketLife,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._proposer = proposer
        self._packets = packets
        self._settings = settings
        self._life = life
        self._wall_ms = wall_ms

    def add_routes(self, admin: Router) -> None:
        admin.add(
            PATH + "/",
            {"GET": self.show, "DELETE": self.delete},
            public=False,
            operations={"GET": relay_api.SHOW, "DELETE": relay_api.DELETE},
            parameter=relay_api.KEY,
        )
        for name, prefix, effect in (
            ("denied", DENIED, "Nothing can be published under these keys."),
            ("allowed", ALLOWED, "If there are any, nothing can be published under other keys."),
        ):
            whole, one = relay_api.list_operations(name, effect)
            path = f"{PATH}/{name}"
            admin.add(path, {"GET": self._listed(prefix)}, public=False, operations={"GET": whole})
            admin.add(
                path + "/",
                {"PUT": self._put_on(prefix), "DELETE": self._take_off(prefix)},
                public=False,
                operations=one,
                parameter=relay_api.KEY,
            )

    async def show(self, request: Request, key_untrusted: str) -> web.StreamResponse:
        """What is stored under a key, tombstones included; with `fields`, taken apart."""
        taken_apart = query_of(request, _SHOW).get("fields", b"false")
        if taken_apart not in (b"true", b"false"):
            raise HttpError(400, "bad_query", "fields is true or false")
        public_key = parse_key(key_untrusted)
        stored = self._packets.get(public_key)
        if stored is None:
            raise HttpError(404, "not_found", "nothing is stored under this key")
        fields: Iterable[Field] = ()
        if taken_apart == b"true" and stored.payload:
            fields = explain(stored.payload, public_key)
        info = PacketInfo(
            encode_key(public_key),
            stored.timestamp_us,
            stored.received_at_ms,
            self._state(stored),
            stored.payload,
            tuple(PacketField(*field) for field in fields),
        )
        return json_response(info, headers={"Cache-Control": "no-store"})

    def _state(self, stored: PacketRecord) -> str:
        if stored.tombstone:
            return "unpublished" if stored.payload else "deleted"
        return "expired" if self._life.is_over(stored, self._wall_ms()) else "live"

    async def delete(self, request: Request, key_untrusted: str) -> web.StreamResponse:
        """Delete a packet; its tombstone stays."""
        query_of(request, _NONE)
        result = await self._proposer.propose(PacketDelete(parse_key(key_untrusted)))
        if not isinstance(result, PacketResult):
            raise InvariantViolation("deleting a packet was answered as if it were another command")
        if result.outcome is PacketOutcome.ABSENT:
            raise HttpError(404, "not_found", "there is no packet under this key")
        return web.Response(status=204)

    # --- lists of keys --------------------------------------------------------------------------

    def _listed(self, prefix: str) -> Callable[[Request, str], Awaitable[web.StreamResponse]]:
        async def listed(request: Request, _rest: str) -> web.StreamResponse:
            query_of(request, _NONE)
            found = self._settings.under(prefix)
            keys = {name[len(prefix) :]: value.decode("utf-8", "replace") for name, value in found.items()}
            return json_response(ListedKeys(keys), headers={"Cache-Control": "no-store"})

        return listed

    def _put_on(self, prefix: str) -> Callable[[Request, str], Awaitable[web.StreamResponse]]:
        async def put_on(request: Request, key_untrusted: str) -> web.StreamResponse:
            query_of(request, _NONE)
            z32 = encode_key(parse_key(key_untrusted))
            reason = await read_body(request, PKARR_REASON_BYTES)
            try:
                reason.decode("utf-8")
            except UnicodeDecodeError:
                raise HttpError(400, "bad_reason", "the reason is not UTF-8 text") from None
            await self._proposer.propose(SettingPut(prefix + z32, reason))
            return web.Response(status=204)

        return put_on

    def _take_off(self, prefix: str) -> Callable[[Request, str], Awaitable[web.StreamResponse]]:
        async def take_off(request: Request, key_untrusted: str) -> web.StreamResponse:
            query_of(request, _NONE)
            result = await self._proposer.propose(
                SettingDelete(prefix + encode_key(parse_key(key_untrusted)))
            )
            if not isinstance(result, SettingResult):
                raise InvariantViolation("a setting's deletion was answered as if it were another command")
            if not result.changed:
                raise HttpError(404, "not_found", "the key was not on the list")
            return web.Response(status=204)

        return take_off
