"""A client of one node's HTTP interface: status, changes of the cluster, key-value, pkarr.

Every method returns what was asked for or raises a kind of `ClientError`; nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from aspen.client.kv import Changes, KvCalls, read_event, watch_query
from aspen.client.transport import Answer, Query, Transport, read_json
from aspen.errors import ClientError
from aspen.limits import CLIENT_REQUEST_MS, CONTROL_MS, PROFILE_ASK_MS


class NodeClient(Transport, KvCalls):
    """Use as an async context manager: `async with NodeClient(addr) as client:`."""

    async def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return await self.ask(method, path, query, body=body, headers=headers)

    async def kv_watch(
        self, prefix: bytes = b"", *, key: bytes | None = None, start: int | None = None
    ) -> AsyncIterator[Changes]:
        """Every change under `prefix`, or of `key` alone, from revision `start` on or from now on, and
        signs of life, the first at once. Raises `ClientUnavailable` when the connection breaks, and
        `ClientCompacted` if what was changed from `start` on is no longer known."""
        query = watch_query(prefix, key)
        if start is not None:
            query["from"] = str(start)
        name, data = "message", b""
        async for line in self.stream("/v1/watch", query):
            if line.startswith(b"event: "):
                name = line[7:].decode("ascii", "replace")
            elif line.startswith(b"data: "):
                data = line[6:]
            elif not line and data:
                yield read_event(name, data)
                name, data = "message", b""

    async def status(self) -> dict[str, Any]:
        """`GET /v1/cluster/status`, as the node gave it."""
        return read_json(await self._request("GET", "/v1/cluster/status"), dict[str, Any])

    async def ticket(self, *, signed: bool = False, ttl_s: int | None = None) -> dict[str, Any]:
        """A `ticket` that tells a new node where the cluster is; a signed one lets its holder in, until
        `expires_at_s`."""
        query: dict[str, str | bytes] = {"signed": "true"} if signed else {}
        if ttl_s is not None:
            query["ttl"] = str(ttl_s)
        return read_json(await self._request("GET", "/cluster-ticket", query), dict[str, Any])

    async def peers(self) -> dict[str, Any]:
        """`GET /v1/peers`, as the node gave it."""
        return read_json(await self._request("GET", "/v1/peers"), dict[str, Any])

    async def control(
        self, action: str, request: dict[str, Any], *, timeout_ms: int = CONTROL_MS
    ) -> dict[str, Any]:
        """`POST /v1/cluster/<action>`, given that long to be done; the node's JSON answer."""
        request = {**request, "timeout_ms": timeout_ms} if action != "init" else request
        body = await self._request(
            "POST",
            f"/v1/cluster/{action}",
            body=msgspec.json.encode(request),
            timeout_ms=timeout_ms + CLIENT_REQUEST_MS,
        )
        return read_json(body, dict[str, Any])

    async def profile(self, seconds: float, node_id: int | None = None) -> dict[str, Any]:
        """What the time of the node asked, or of another member, goes into, for so many seconds."""
        wanted: dict[str, Any] = {"seconds": seconds} | ({} if node_id is None else {"node_id": node_id})
        body = await self._request(
            "POST",
            "/v1/cluster/profile",
            body=msgspec.json.encode(wanted),
            timeout_ms=round(seconds * 1000) + PROFILE_ASK_MS + CLIENT_REQUEST_MS,
        )
        return read_json(body, dict[str, Any])

    def backup(self) -> AsyncGenerator[bytes, None]:
        """A backup of the node's state, in pieces: whether it is whole, its own trailer tells."""
        return self.parts("/v1/cluster/backup")

    async def ready(self) -> bool:
        """Whether the node serves reads and knows a leader."""
        try:
            await self._request("GET", "/readyz")
        except ClientError:
            return False
        return True

    async def health(self) -> dict[str, Any]:
        """`GET /health`: how the node is, also if it isn't well."""
        answer = await self.ask("GET", "/health", accept=(503,))
        return read_json(answer.body, dict[str, Any])

    async def tsig_keys(self) -> list[dict[str, Any]]:
        """Names and algorithms of the TSIG keys."""
        keys: list[dict[str, Any]] = read_json(await self._request("GET", "/v1/tsig-keys"), dict[str, Any])[
            "keys"
        ]
        return keys

    async def tsig_key_put(
        self, name: str, algorithm: str, secret: str | None = None, *, replace: bool = False
    ) -> dict[str, Any]:
        """Add a TSIG key; without a secret (in base64) the node makes one up, and the answer has it.

        Raises `ClientError` with status 409 if there is one of this name.
        """
        wanted = {"algorithm": algorithm} | ({} if secret is None else {"secret": secret})
        query: dict[str, str | bytes] = {"replace": "true"} if replace else {}
        body = msgspec.json.encode(wanted)
        return read_json(await self._request("PUT", _tsig_key_path(name), query, body=body), dict[str, Any])

    async def tsig_key_delete(self, name: str) -> dict[str, Any]:
        """Raises `ClientNotFound` if there is no such key."""
        return read_json(await self._request("DELETE", _tsig_key_path(name)), dict[str, Any])

    async def pkarr_put(self, z32: str, payload: bytes) -> None:
        """Publish a signed packet. Raises `ClientError` with status 409 if a more recent one is stored."""
        await self._request("PUT", f"/pkarr/{quote(z32, safe='')}", body=payload)

    async def pkarr_get(self, z32: str) -> bytes:
        """The relay payload stored under a key. It is not verified: `SignedPacket.parse` does that."""
        return await self._request("GET", f"/pkarr/{quote(z32, safe='')}")

    async def _request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | None = None,
        timeout_ms: int | None = None,
    ) -> bytes:
        return (await self.ask(method, path, query, body=body, timeout_ms=timeout_ms)).body


def _tsig_key_path(name: str) -> str:
    return f"/v1/tsig-keys/{quote(name.rstrip('.') or '.', safe='')}"
