"""An HTTP client for histories: it sends a request once, and knows whether it may have been taken.

A client that quietly sends a request again on a fresh connection (many do, for PUT) makes one operation
of the history happen twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

CONNECT_S = 1.0


class NotSent(Exception):
    """No connection: the request can't have had an effect."""


class NoAnswer(Exception):
    """The request may have had its effect."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A kept connection to one node; one request at a time."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._host, self._port = host, port
        self._head = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", *, timeout_s: float, accept: str = "*/*"
    ) -> Answer:
        """Raises `NotSent` or `NoAnswer`; then the next request opens a new connection."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = self._streams or await self._connect()
                head = f"{method} {path} HTTP/1.1\r\n{self._head}Accept: {accept}\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = await _answer(reader)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.close()
            raise NoAnswer(str(error) or type(error).__name__) from None
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_S):
                self._streams = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError) as error:
            raise NotSent(str(error) or type(error).__name__) from None
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> Answer:
    """Raises `EOFError` or `ValueError` when it is not all there."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = {}
    for line in filter(None, head[1:]):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    return Answer(status, headers, await reader.readexactly(length) if length else b"")
