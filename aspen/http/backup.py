"""`GET /v1/cluster/backup`: this node's state of one moment, as a file. An admin route.

The answer has no length: whoever reads it knows by the file's own trailer that it is whole. One that is
broken off ends without HTTP's last chunk, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Final, cast

import structlog
from aiohttp import web

from aspen.errors import AspenError, InvariantViolation
from aspen.http.openapi import BINARY, Answer, Operation
from aspen.http.request import query_of
from aspen.http.routing import Request, Router
from aspen.http.sse import Stream

if TYPE_CHECKING:
    from aspen.http.connection import Connection

log = structlog.get_logger("aspen.http")

PATH: Final = "/v1/cluster/backup"
OCTETS: Final = "application/octet-stream"
BACKUP: Final = Operation(
    "A backup of this node's state, of one moment",
    {200: Answer("The file, as `aspen cluster backup` writes it. It holds secrets.", {OCTETS: BINARY})},
    {409: "This node belongs to no cluster yet."},
    description="503 `overloaded` while another is being made of this node.",
    tag="cluster",
)
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()


class BackupRoutes:
    """The handler."""

    def __init__(self, stream: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        """`stream` makes a backup; what it raises before the first bytes is the answer."""
        self._stream = stream

    def add_routes(self, admin: Router) -> None:
        admin.add(PATH, {"GET": self.get}, public=False, operations={"GET": BACKUP})

    async def get(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, _NO_PARAMETERS)
        connection = cast("Connection", request.protocol)
        headers = {"Content-Type": OCTETS, "Cache-Control": "no-store", **connection.answer_headers}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        pieces, state = self._stream(), Stream()
        try:
            first = await anext(pieces)
            with connection.streaming(state):
                response = web.StreamResponse(headers=headers)
                try:
                    await response.prepare(request)
                    await response.write(first)
                    async for piece in pieces:
                        if state.ended:
                            connection.abort()
                            break
                        await response.write(piece)
                except ConnectionError:
                    log.info("backup: the client is gone")
                except InvariantViolation:
                    raise
                except AspenError as error:
                    log.warning("backup broken off", reason=str(error))
                    connection.abort()
                return response
        finally:
            await pieces.aclose()
