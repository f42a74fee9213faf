"""Requests to one node, sent once each: what came of them, as an answer or a kind of `ClientError`.

A write that was sent and not answered raises `ClientOutcomeUnknown` and is never retried here: only
the caller knows whether writing twice is harmless.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from aspen.decoding import UNDECODABLE
from aspen.errors import (
    ClientCompacted,
    ClientCompareFailed,
    ClientError,
    ClientNotFound,
    ClientOutcomeUnknown,
    ClientUnavailable,
    ConfigError,
)
from aspen.limits import CLIENT_CONNECT_MS, CLIENT_REQUEST_MS, CLIENT_RESPONSE_BYTES, CLIENT_SILENCE_MS

T = TypeVar("T")
Query = Mapping[str, str | bytes]

DEFAULT_ADDR: Final = "http://127.0.0.1:8080"

# The node did nothing: these codes say so (`aspen.errors.ProposalError`).
_NOTHING_DONE: Final = frozenset(
    {
        "no_leader",
        "not_leader",
        "overloaded",
        "no_room",
        "not_ready",
        "timeout",
        "unavailable",
        "too_many",
        "future_revision",
    }
)


_NOT_FOUND: Final = frozenset({"not_found", "no_such_zone", "lease_not_found", "unknown_node", "http_404"})


class Answer(NamedTuple):
    """An answer of 200 to 299."""

    body: bytes
    revision: int
    """The key-value store's, if the answer tells one; else 0."""

    def read(self, kind: type[T]) -> T:
        """The JSON in it. Raises `ClientError` for what no Aspen node says."""
        return read_json(self.body, kind)


class _Problem(msgspec.Struct):
    error: str = "failed"
    reason: str = ""
    revision: int = 0
    current: dict[str, Any] | None = None


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


class Transport:
    """Use as an async context manager."""

    def __init__(
        self, addr: str = DEFAULT_ADDR, *, token: str | None = None, timeout_ms: int = CLIENT_REQUEST_MS
    ) -> None:
        self.base = parse_addr(addr)
        self._headers = {"Authorization": f"Bearer {_sendable('the token', token)}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_ms / 1_000, sock_connect=min(CLIENT_CONNECT_MS, timeout_ms) / 1_000
        )
        self._session: aiohttp.ClientSession | None = None
        self.has_written = False
        """Whether anything was sent that may have changed something."""

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

    async def ask(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_ms: int | None = None,
        accept: Collection[int] = (),
    ) -> Answer:
        """One request, sent once; these statuses, too, are answers. Raises a kind of `ClientError`."""
        timeout = self._timeout
        if timeout_ms is not None:
            timeout = aiohttp.ClientTimeout(total=timeout_ms / 1_000, sock_connect=timeout.sock_connect)
        writes = method not in ("GET", "HEAD")
        try:
            async with self._sent(method, path, query, body, headers, timeout) as response:
                answer = await _read_bounded(response)
            if not (200 <= response.status < 300 or response.status in accept):
                raise refusal(response.status, answer, writes)
        except ClientUnavailable:
            raise  # it changed nothing
        except ClientError:
            self.has_written |= writes
            raise
        self.has_written |= writes
        revision = response.headers.get("Aspen-Revision", "")
        return Answer(answer, int(revision) if revision.isdigit() else 0)

    async def stream(
        self, path: str, query: Query | None = None, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """The lines of an answer that goes on, as they come. Raises as `parts` does."""
        rest = bytearray()
        async with aclosing(self.parts(path, query, headers=headers)) as parts:
            async for part in parts:
                rest += part
                *lines, last = rest.split(b"\n")
                for line in lines:
                    yield bytes(line)
                rest = last
                if len(rest) > CLIENT_RESPONSE_BYTES:
                    raise ClientError(200, "answer_too_large", "the node's answer is too large")

    async def parts(
        self, path: str, query: Query | None = None, *, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of an answer of any length, as they come. Raises a kind of `ClientError`,
        `ClientUnavailable` when it breaks off or is silent for too long."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout.sock_connect, sock_read=CLIENT_SILENCE_MS / 1_000
        )
        async with self._sent("GET", path, query, None, headers, timeout) as response:
            if response.status != 200:
                raise refusal(response.status, await _read_bounded(response), False)
            async for part in response.content.iter_any():
                yield part

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str] | None,
        times: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("use the client as an async context manager")
        tail = "&".join(f"{name}={quote(value, safe='')}" for name, value in (query or {}).items())
        url = URL(str(self.base.origin()) + path + ("?" + tail if tail else ""), encoded=True)
        all_headers = {"Accept": "*/*"}
        for name, text in (headers or {}).items():
            all_headers[name] = _sendable(name, text)
        try:
            async with self._session.request(
                method, url, data=body, headers=all_headers, allow_redirects=False, timeout=times
            ) as response:
                yield response
        except aiohttp.ClientSSLError as error:
            reason = f"no TLS with {self.base}: {_why_tls(error)}"
            raise ClientUnavailable(0, "certificate", reason) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # Nothing was sent, so nothing happened.
            raise ClientUnavailable(
                0, "unreachable", f"no node answers at {self.base}: {_why(error)}"
            ) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = f"{self.base} gave no answer: {str(error) or type(error).__name__}"
            if method not in ("GET", "HEAD"):
                raise ClientOutcomeUnknown(0, "outcome_unknown", reason) from None
            raise ClientUnavailable(0, "unreachable", reason) from None


def _sendable(what: str, text: str) -> str:
    """The text, if it can be a header's value. Raises `ConfigError`, without it: it may be a secret."""
    if not text.isprintable():
        raise ConfigError(f"{what} holds a line break, or what is no printable text")
    return text


def _why(error: Exception) -> str:
    """A failure to connect, in the system's words; the address is said already."""
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno
        # Resolvers have negative codes of their own.
        return os.strerror(code) if code is not None and code > 0 else error.strerror or str(error)
    return str(error)


def _why_tls(error: aiohttp.ClientSSLError) -> str:
    cause = (
        error.certificate_error
        if isinstance(error, aiohttp.ClientConnectorCertificateError)
        else error.os_error
    )
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)


def refusal(status: int, answer: bytes, writes: bool) -> ClientError:
    """The error that an answer of 300 or more stands for."""
    try:
        problem = msgspec.json.decode(answer, type=_Problem)
    except UNDECODABLE:
        problem = _Problem(f"http_{status}", f"HTTP status {status}, in words that are no Aspen node's")
    code, reason = problem.error, problem.reason or problem.error
    if status == 404 and code in _NOT_FOUND:
        return ClientNotFound(status, code, reason)
    if code == "compare_failed":
        return ClientCompareFailed(status, code, reason, current=problem.current)
    if code == "compacted":
        return ClientCompacted(status, code, reason, revision=problem.revision)
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


def read_json(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except UNDECODABLE as error:
        raise ClientError(200, "bad_answer", f"not the answer of an Aspen node: {error}") from None
