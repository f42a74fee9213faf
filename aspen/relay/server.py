"""A relay as an HTTP route: `GET /relay`, upgraded to WebSocket (RFC 6455) (shell).

The handler of one client reads; a task of its own writes what the hub has queued for it, so that a
client which doesn't take its datagrams holds up nobody. A client that says nothing for a while is pinged,
and cut off when it doesn't answer; one whose socket takes nothing, after `HttpLimits.send_ms`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Final, cast

import structlog
from aiohttp import WSMsgType, web

from aspen.errors import HttpError, RelayError
from aspen.http.admin import names_loopback
from aspen.http.connection import Connection
from aspen.http.errors import RETRY_AFTER_SECONDS
from aspen.http.openapi import Answer, Operation
from aspen.http.routing import Request, Router
from aspen.http.sse import Stream
from aspen.limits import (
    RELAY_FRAME_BYTES,
    RELAY_HANDSHAKE_MS,
    RELAY_HEARTBEAT_MS,
    RELAY_UNPROVEN,
    RELAY_UNPROVEN_PER_ADDRESS,
)
from aspen.net.refusals import Refusals
from aspen.ratelimit import peer_of
from aspen.relay.access import PATH, REMOVED, Access
from aspen.relay.frames import (
    NONCE_BYTES,
    TOKEN_BYTES,
    Challenge,
    Datagram,
    Frame,
    Observed,
    Proof,
    Refused,
    Welcome,
    decode_frame,
    encode_frame,
)
from aspen.relay.hub import Hub, RelayLimits, Session
from aspen.relay.observer import Observer
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.relay")

_CLOSE_S: Final = 1.0  # for a client to answer the close
_OPERATION: Final = Operation(
    "Carry QUIC datagrams between nodes (WebSocket)",
    {101: Answer("The connection is a relay's from here on.", {})},
    {426: "Not a WebSocket handshake over HTTP/1.1.", 503: "Too many clients."},
    tag="relay",
)


class RelayServer:
    """The relay of one process, on any number of listeners."""

    def __init__(
        self,
        access: Access,
        limits: RelayLimits | None = None,
        certified: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        """`certified` are the names in its certificate, as of now."""
        self.hub = Hub(limits or RelayLimits())
        self.refusals = Refusals(time.monotonic)
        self.observer: Observer | None = None
        self._access = access
        self._certified = certified
        self._tokens: dict[bytes, Session] = {}
        self._unproven: Counter[str] = Counter()
        """By address (of IPv6, by /64)."""
        self._handlers: set[asyncio.Task[None] | asyncio.Task[object]] = set()

    @property
    def handshakes(self) -> int:
        """Clients that have not proven themselves yet."""
        return self._unproven.total()

    @property
    def called(self) -> list[str]:
        """The names that it was told or that are in its certificate."""
        return [*(self._access.names or self._certified())]

    def add_routes(self, public: Router) -> None:
        public.add(PATH, {"GET": self.connect}, public=True, operations={"GET": _OPERATION})

    async def observe(self, host: str, port: int) -> None:
        """Tell clients from where their datagrams come, too, if the UDP port can be had."""
        observer = Observer(self._seen)
        try:
            await observer.start(host, port)
        except OSError as error:
            log.warning(
                "nodes behind NATs learn no public address here", host=host, port=port, reason=str(error)
            )
        else:
            self.observer = observer

    def _seen(self, token_untrusted: bytes, address: tuple[str, int]) -> None:
        session = self._tokens.get(token_untrusted)
        if session is not None:
            self.hub.give(session, encode_frame(Observed(*address)))

    def recheck(self) -> None:
        """End the connections of those who may not use it any more."""
        for session in self.hub.sessions:
            if self._access.refuses(session.endpoint_id):
                session.end(RelayError("not_allowed", REMOVED))

    async def close(self) -> None:
        """End every client's connection; they will look for the relay again."""
        if self.observer is not None:
            self.observer.close()
        for session in self.hub.sessions:
            session.end(RelayError("stopping", "the relay is stopping"))
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=2 * _CLOSE_S)

    async def connect(self, request: Request, _rest: str) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            timeout=_CLOSE_S,
            heartbeat=RELAY_HEARTBEAT_MS / 1000,
            max_msg_size=RELAY_FRAME_BYTES,
            compress=False,
        )
        if not socket.can_prepare(request).ok:
            raise HttpError(
                426, "upgrade_required", "a relay speaks WebSocket here", headers={"Upgrade": "websocket"}
            )
        peer = _peer(request)
        if self.handshakes >= RELAY_UNPROVEN or self._unproven[peer] >= RELAY_UNPROVEN_PER_ADDRESS:
            retry = {"Retry-After": RETRY_AFTER_SECONDS}
            raise HttpError(503, "overloaded", "too many clients are in the handshake", headers=retry)
        self._unproven[peer] += 1
        with ExitStack() as unproven, cast(Connection, request.protocol).streaming(_Line(request)):
            unproven.callback(self._proven, peer)
            await socket.prepare(request)
            task = asyncio.current_task()
            assert task is not None
            self._handlers.add(task)
            try:
                await self._serve(socket, request, unproven)
            except RelayError as error:
                self.refusals.note(error.code, str(error), peer=request.remote, relay=True)
                await _refuse(socket, error)
            except ConnectionError:
                pass  # gone
            finally:
                self._handlers.discard(task)
        return socket

    def _proven(self, peer: str) -> None:
        self._unproven -= Counter((peer,))  # leaves out those without any

    async def _serve(self, socket: web.WebSocketResponse, request: Request, unproven: ExitStack) -> None:
        try:
            async with asyncio.timeout(RELAY_HANDSHAKE_MS / 1000):
                endpoint_id = await self._prove(socket, request)
        except TimeoutError:
            raise RelayError("timeout", "the client did not say who it is in time") from None
        finally:
            unproven.close()
        if endpoint_id is None:
            return
        woken = asyncio.Event()
        session = self.hub.enter(endpoint_id, woken.set)
        token = os.urandom(TOKEN_BYTES)
        self._tokens[token] = session
        z32 = encode_key(endpoint_id)
        log.info("relay client connected", endpoint_id=z32, clients=len(self.hub))
        writer = asyncio.create_task(_write(socket, session, woken), name="relay writer")
        try:
            udp_port = 0 if self.observer is None else self.observer.port
            await socket.send_bytes(encode_frame(Welcome(udp_port, token)))
            while (frame := await _next(socket)) is not None:
                if not isinstance(frame, Datagram):
                    raise RelayError("malformed", "a client sends datagrams, and nothing else")
                self.hub.forward(session, frame, time.monotonic())
        finally:
            self.hub.leave(session)
            del self._tokens[token]
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            log.info("relay client disconnected", endpoint_id=z32, clients=len(self.hub))

    async def _prove(self, socket: web.WebSocketResponse, request: Request) -> bytes | None:
        """Who the client is; None if it went away."""
        nonce = os.urandom(NONCE_BYTES)
        await socket.send_bytes(encode_frame(Challenge(nonce, self._access.wants_key)))
        frame = await _next(socket)
        if frame is None:
            return None
        if not isinstance(frame, Proof):
            raise RelayError("malformed", "a client's first frame is its proof")
        return self._access.check(frame, nonce, (*self._certified(), *_reached_at(request)))


def _peer(request: Request) -> str:
    """Whom a connection counts for."""
    try:
        return peer_of(request.remote or "")
    except ValueError:
        return ""


def _reached_at(request: Request) -> tuple[str, ...]:
    """This machine's address that the client has connected to, whatever its request says."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    if not isinstance(name, tuple):
        return ()
    host = str(name[0])
    return (host, "localhost") if names_loopback(host) else (host,)


class _Line(Stream):
    """What the HTTP connection tells: a client that has closed its side is gone."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request

    def _tell(self) -> None:
        if self._request.transport is not None:
            self._request.transport.close()


async def _next(socket: web.WebSocketResponse) -> Frame | None:
    """The client's next frame; None at the end. Raises `RelayError`."""
    message = await socket.receive()
    if message.type is WSMsgType.BINARY:
        return decode_frame(message.data)
    if message.type is WSMsgType.TEXT:
        raise RelayError("malformed", "frames are binary messages")
    return None


async def _write(socket: web.WebSocketResponse, session: Session, woken: asyncio.Event) -> None:
    """Send what is queued, until the session ends."""
    while session.ended is None:
        frame = session.queue.pop()
        if frame is not None:
            try:
                await socket.send_bytes(frame)
            except ConnectionError:
                return  # the reader sees it too
        else:
            woken.clear()
            await woken.wait()
    await _refuse(socket, session.ended)


async def _refuse(socket: web.WebSocketResponse, error: RelayError) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await socket.send_bytes(encode_frame(Refused(error.code, str(error))))
            await socket.close(code=4_000, message=error.code.encode())
    except (ConnectionError, TimeoutError):
        pass
