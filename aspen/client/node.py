"""A client of one node's HTTP interface: status, changes of the cluster, key-value, pkarr.

Every method returns what was asked for or raises a kind of `ClientError`. A write that was sent
and not answered raises `ClientOutcomeUnknown` and is never retried: only the caller knows whether
writing twice is harmless.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from aspen.errors import ClientError, ClientNotFound, ClientOutcomeUnknown, ClientUnavailable, ConfigError
from aspen.limits import (
    CLIENT_CONNECT_MS,
    CLIENT_REQUEST_MS,
    CLIENT_RESPONSE_BYTES,
    CONTROL_MS,
    KV_SCAN_DEFAULT,
)

T = TypeVar("T")

DEFAULT_ADDR: Final = "http://127.0.0.1:8080"

# The node did nothing: these codes say so (`aspen.errors.ProposalError`).
_NOTHING_DONE: Final = frozenset(
    {"no_leader", "not_leader", "overloaded", "no_room", "not_ready", "timeout", "unavailable"}
)


class KvEntry(msgspec.Struct, frozen=True):
    """A key and its value, with the revisions that made them."""

    key: bytes
    value: bytes
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0


class KvScan(msgspec.Struct, frozen=True):
    """One page of a scan. If there is `more`, continue after the last entry's key."""

    entries: tuple[KvEntry, ...]
    more: bool = False
    revision: int = 0


class KvWritten(msgspec.Struct, frozen=True):
    """What a write did: the store's revision after it, and how many keys it set or deleted."""

    revision: int = 0
    changed: int = 0


class _Problem(msgspec.Struct):
    error: str = "failed"
    reason: str = ""


def parse_addr(text: str) -> URL:
    """Read a node's base URL; `host:port` means http. Raises `ConfigError`."""
    try:
        url = URL(text if "://" in text else f"http://{text}")
        usable = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"not the address of a node: {text!r} (as in {DEFAULT_ADDR})")
    return url


class NodeClient:
    """Use as an async context manager: `async with NodeClient(addr) as client:`."""

    def __init__(
        self, addr: str = DEFAULT_ADDR, *, token: str | None = None, timeout_ms: int = CLIENT_REQUEST_MS
    ) -> None:
        self.base = parse_addr(addr)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_ms / 1_000, sock_connect=min(CLIENT_CONNECT_MS, timeout_ms) / 1_000
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        # aiohttp would send a PUT or DELETE again when the connection ends before the answer: a write
        # of unknown outcome, repeated behind the caller's back. It has no public switch for that.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def status(self) -> dict[str, Any]:
        """`GET /v1/cluster/status`, as the node gave it."""
        return _read(await self._request("GET", "/v1/cluster/status"), dict[str, Any])

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
        return _read(body, dict[str, Any])

    async def ready(self) -> bool:
        """Whether the node serves reads and knows a leader."""
        try:
            await self._request("GET", "/readyz")
        except ClientError:
            return False
        return True

    async def kv_get(self, key: bytes, consistency: str = "consistent") -> KvEntry:
        """Raises `ClientNotFound` if there is no such key."""
        query: dict[str, str | bytes] = {"consistency": consistency}
        body = await self._request("GET", _key_path(key), query, accept="application/json")
        return _read(body, KvEntry)

    async def kv_put(self, key: bytes, value: bytes) -> KvWritten:
        return _read(await self._request("PUT", _key_path(key), body=value), KvWritten)

    async def kv_delete(self, key: bytes) -> KvWritten:
        """Raises `ClientNotFound` if there was no such key."""
        written = _read(await self._request("DELETE", _key_path(key)), KvWritten)
        if not written.changed:
            raise ClientNotFound(200, "not_found", "there was no such key")
        return written

    async def kv_scan(
        self,
        prefix: bytes = b"",
        *,
        after: bytes | None = None,
        limit: int = KV_SCAN_DEFAULT,
        consistency: str = "consistent",
    ) -> KvScan:
        """One page of the keys that begin with `prefix`, in order."""
        query: dict[str, str | bytes] = {"prefix": prefix, "limit": str(limit), "consistency": consistency}
        if after is not None:
            query["after"] = after
        return _read(await self._request("GET", "/v1/kv", query, accept="application/json"), KvScan)

    async def tsig_keys(self) -> list[dict[str, Any]]:
        """Names and algorithms of the TSIG keys."""
        keys: list[dict[str, Any]] = _read(await self._request("GET", "/v1/tsig-keys"), dict[str, Any])[
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
        return _read(await self._request("PUT", _tsig_key_path(name), query, body=body), dict[str, Any])

    async def tsig_key_delete(self, name: str) -> dict[str, Any]:
        """Raises `ClientNotFound` if there is no such key."""
        return _read(await self._request("DELETE", _tsig_key_path(name)), dict[str, Any])

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
        query: dict[str, str | bytes] | None = None,
        *,
        body: bytes | None = None,
        accept: str = "*/*",
        timeout_ms: int | None = None,
    ) -> bytes:
        if self._session is None:
            raise RuntimeError("use NodeClient as an async context manager")
        tail = "&".join(f"{name}={quote(value, safe='')}" for name, value in (query or {}).items())
        url = URL(str(self.base.origin()) + path + ("?" + tail if tail else ""), encoded=True)
        writes = method not in ("GET", "HEAD")
        timeout = self._timeout
        if timeout_ms is not None:
            timeout = aiohttp.ClientTimeout(total=timeout_ms / 1_000, sock_connect=timeout.sock_connect)
        try:
            async with self._session.request(
                method, url, data=body, headers={"Accept": accept}, allow_redirects=False, timeout=timeout
            ) as response:
                answer = await _read_bounded(response)
                if 200 <= response.status < 300:
                    return answer
                raise _refusal(response.status, answer, writes)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # Nothing was sent, so nothing happened.
            raise ClientUnavailable(0, "unreachable", f"no node answers at {self.base}: {error}") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = f"{self.base} gave no answer: {str(error) or type(error).__name__}"
            if writes:
                raise ClientOutcomeUnknown(0, "outcome_unknown", reason) from None
            raise ClientUnavailable(0, "unreachable", reason) from None


def _refusal(status: int, answer: bytes, writes: bool) -> ClientError:
    """The error that an answer of 300 or more stands for."""
    try:
        problem = msgspec.json.decode(answer, type=_Problem)
    except (msgspec.DecodeError, msgspec.ValidationError):
        problem = _Problem(f"http_{status}", f"HTTP status {status}")
    code, reason = problem.error, problem.reason or problem.error
    if status == 404 and code in ("not_found", "http_404"):
        return ClientNotFound(status, code, reason)
    if code == "outcome_unknown":
        return ClientOutcomeUnknown(status, code, reason)
    if code in _NOTHING_DONE or status == 429:
        return ClientUnavailable(status, code, reason)
    if status >= 500:
        # An answer that doesn't say what became of a write leaves it open.
        return (ClientOutcomeUnknown if writes else ClientUnavailable)(status, code, reason)
    return ClientError(status, code, reason)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > CLIENT_RESPONSE_BYTES:
            raise ClientError(response.status, "answer_too_large", "the node's answer is too large")
        parts.append(part)
    return b"".join(parts)


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ClientError(200, "bad_answer", f"not the answer of an Aspen node: {error}") from None


def _tsig_key_path(name: str) -> str:
    return f"/v1/tsig-keys/{quote(name.rstrip('.') or '.', safe='')}"


def _key_path(key: bytes) -> str:
    spelled = quote(key, safe="")
    if not spelled.strip("."):
        spelled = spelled.replace(".", "%2E")  # or `..` would climb out of the path
    return f"/v1/kv/{spelled}"
