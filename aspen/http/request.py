"""Reading a request: its target, query and body, each within bounds.

Targets are taken as sent (RFC 9112 §3.2), so that any bytes can stand in a path or query in
percent escapes: `aiohttp` would hand out a normalised URL. Bodies are refused by their
`Content-Length` before a byte is read, or at the first byte over the limit if they come chunked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote_to_bytes

from aspen.errors import HttpError
from aspen.http.routing import Request
from aspen.limits import HTTP_QUERY_PARAMETERS

if TYPE_CHECKING:
    from aspen.http.connection import Connection

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def target_of(request: Request) -> tuple[str, str, str | None]:
    """The path as sent, the query as sent, and the authority if the target names one."""
    target = request.raw_path
    authority = None
    if not target.startswith("/"):  # absolute-form, or `*`, which is no path of ours
        _, separator, rest = target.partition("://")
        if separator:
            authority, slash, path = rest.partition("/")
            target = slash + path
            if "?" in authority:
                authority, _, query = authority.partition("?")
                target = "/?" + query
    path, _, query = target.partition("#")[0].partition("?")
    return path, query, authority


def unquote(text_untrusted: str) -> bytes:
    """The bytes that a percent-escaped part of a target stands for (RFC 3986 §2.1)."""
    raw = text_untrusted.encode("utf-8", "surrogateescape")
    if _BAD_ESCAPE.search(raw):
        raise HttpError(400, "bad_escape", "a percent sign in the URL lacks its two hexadecimal digits")
    return unquote_to_bytes(raw)


def query_of(request: Request, allowed: frozenset[str], *, ignore_others: bool = False) -> dict[str, bytes]:
    """The query's parameters. One that isn't `allowed` is an error: it was meant to do something."""
    query = target_of(request)[1]
    parameters: dict[str, bytes] = {}
    if not query:
        return parameters
    parts = query.split("&", HTTP_QUERY_PARAMETERS)
    if len(parts) > HTTP_QUERY_PARAMETERS:
        raise HttpError(400, "bad_query", f"more than {HTTP_QUERY_PARAMETERS} parameters in the query")
    for part in parts:
        if not part:
            continue
        raw_name, _, raw_value = part.partition("=")
        name = unquote(raw_name).decode("utf-8", "replace")
        if name not in allowed:
            if ignore_others:
                continue
            known = ", ".join(sorted(allowed)) or "none"
            raise HttpError(400, "bad_query", f"unknown parameter {name[:40]!r} (known: {known})")
        if name in parameters:
            raise HttpError(400, "bad_query", f"the parameter {name!r} is given twice")
        parameters[name] = unquote(raw_value.replace("+", " "))  # as HTML forms and most clients write
    return parameters


async def read_body(request: Request, max_bytes: int, *, code: str = "too_large") -> bytes:
    """The whole body. Raises `HttpError`: 413 with `code`, 408, 415, 417, or 400 if it is cut short."""
    length = request.content_length
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes, code)
    _refuse_coding(request)
    connection = cast("Connection", request.protocol)
    payload = request.content
    if payload.is_eof():  # it came along with the headers, as small bodies do
        body = payload.read_nowait(-1)
        if len(body) > max_bytes:
            raise _too_large(max_bytes, code)
    else:
        with connection.service.waiting_for_body():
            body = await _read_slowly(request, connection, max_bytes, code)
    flaw = connection.cut_short(payload)
    if flaw is not None:
        raise HttpError(400, "bad_body", flaw, close=True)
    return body


async def body_pieces(request: Request, max_bytes: int, piece_ms: int) -> AsyncIterator[bytes]:
    """The body as it comes, a client being held up while a piece is worked on. Errors as `read_body`;
    408 if no piece comes for `piece_ms`."""
    length = request.content_length
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes, "too_large")
    _refuse_coding(request)
    connection = cast("Connection", request.protocol)
    payload = request.content
    if not payload.is_eof():
        await _expect(request)
    size = 0
    while True:
        try:
            async with asyncio.timeout(piece_ms / 1_000):
                piece = await payload.readany()
        except TimeoutError:
            reason = f"nothing of the body came for {piece_ms / 1_000:g} seconds"
            raise HttpError(408, "timeout", reason, close=True) from None
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes, "too_large")
        if not piece:
            break
        yield piece
    flaw = connection.cut_short(payload)
    if flaw is not None:
        raise HttpError(400, "bad_body", flaw, close=True)


def _refuse_coding(request: Request) -> None:
    coding = request.headers.get("Content-Encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise HttpError(
            415, "content_encoding", "bodies are taken as they are, without a Content-Encoding", close=True
        )


async def _read_slowly(request: Request, connection: Connection, max_bytes: int, code: str) -> bytes:
    await _expect(request)
    payload = request.content
    body = bytearray()
    limit_ms = connection.service.limits.body_ms
    try:
        async with asyncio.timeout(limit_ms / 1_000):
            while chunk := await payload.readany():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes, code)
    except TimeoutError:
        reason = f"the body did not arrive within {limit_ms / 1_000:g} seconds"
        raise HttpError(408, "timeout", reason, close=True) from None
    return bytes(body)


async def _expect(request: Request) -> None:
    """Tell a client that waits for leave to send its body to go on (RFC 9110 §10.1.1)."""
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.strip().lower() != "100-continue":
        raise HttpError(417, "expectation", "the only expectation known is 100-continue", close=True)
    if request.version >= (1, 1):
        await request.writer.write(_CONTINUE)
        # An interim answer: the final one is still all unsent.
        request.writer.output_size = 0


def _too_large(max_bytes: int, code: str) -> HttpError:
    return HttpError(413, code, f"the body is larger than {max_bytes} bytes", close=True)
