"""The HTTP listeners of a node.

The public listener answers what anyone may ask (the pkarr relay, DoH, health); admin routes join it
only if it is a loopback listener or a token guards them, else they have a listener of their own.
The HTTPS listener has the public routes, and the admin routes only where a token guards them.
Every request takes one straight way: room for it? → route → guard or CORS → handler → answer;
every error on it becomes JSON in one place.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec
import structlog
from aiohttp import web

from aspen import __version__
from aspen.dns.sockets import bind_tcp
from aspen.errors import AspenError, ConfigError, InvariantViolation
from aspen.http.admin import AdminGuard, names_loopback
from aspen.http.connection import SERVER_NAME, Connection, HttpLimits, Service
from aspen.http.errors import RETRY_AFTER_SECONDS, answer_to, problem
from aspen.http.http2 import Http2Connection
from aspen.http.openapi import JSON, Answer, Operation, document
from aspen.http.request import query_of, target_of
from aspen.http.routing import Request, Route, Router
from aspen.http.traces import Tracing
from aspen.limits import HTTP_BACKLOG, SHUTDOWN_MS
from aspen.slow import SlowLog
from aspen.systemd import NO_SOCKETS, GivenSockets
from aspen.tls.listener import TlsListener
from aspen.tracing import CURRENT, HEADER

log = structlog.get_logger("aspen.http")

Address = tuple[str, int]

_EXPOSED: Final = ", ".join(
    (
        "ETag",
        "Retry-After",
        "Aspen-Applied-Index",
        "Aspen-Known-Leader",
        "Aspen-Last-Contact-Ms",
        "Aspen-Revision",
        "Aspen-Source",
        HEADER,
    )
)
_PREFLIGHT_SECONDS: Final = "86400"
DOCUMENT_PATH: Final = "/openapi.json"
_DOCUMENT_OPERATION: Final = Operation(
    "This document",
    {200: Answer("OpenAPI 3.1, of the routes that this listener serves.", {JSON: {"type": "object"}})},
    tag="about",
)
_HEADERS: Final = {"Server": SERVER_NAME}
_PUBLIC_HEADERS: Final = {
    **_HEADERS,
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": _EXPOSED,
}
_ALPN: Final = ("h2", "http/1.1")


class Https(NamedTuple):
    """Where HTTPS listens, and TLS contexts by the application protocols they offer."""

    address: Address
    context: Callable[..., ssl.SSLContext]


class Listener:
    """One listening socket and the routes it serves, by TLS if it is given `context`."""

    def __init__(
        self,
        router: Router,
        guard: AdminGuard,
        limits: HttpLimits,
        context: Callable[..., ssl.SSLContext] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._router = router
        self._tracing = tracing or Tracing(SlowLog())
        self._document = b""
        router.add(
            DOCUMENT_PATH, {"GET": self._get_document}, public=True, operations={"GET": _DOCUMENT_OPERATION}
        )
        self._guard = guard
        self._limits = limits
        self._service = Service(self._answer, limits)
        self._server: asyncio.Server | None = None
        self._tls = None if context is None else TlsListener(lambda: context(*_ALPN), self._protocol)
        self.address: Address = ("", 0)

    async def start(self, address: Address, bound: socket.socket | None = None) -> None:
        """Bind, unless that is done already, and listen. Raises `ConfigError` if the address can't be had."""
        host, port = address
        loop = asyncio.get_running_loop()
        try:
            if self._tls is not None:
                at = self._tls.start(bound or bind_tcp(host, port))
            else:
                place: dict[str, Any] = {"host": host, "port": port} if bound is None else {"sock": bound}
                self._server = await loop.create_server(self._service, backlog=HTTP_BACKLOG, **place)
                at = self._server.sockets[0].getsockname()
        except (OSError, socket.gaierror) as error:
            kind = "HTTP" if self._tls is None else "HTTPS"
            raise ConfigError(f"{kind} can't listen on {host}:{port}: {error}") from None
        self.address = (at[0], at[1])
        self._service.start_sweeping()

    async def close(self) -> None:
        """Accept no more, let requests finish for a moment, then end every connection."""
        if self._server is not None:
            self._server.close()
        if self._tls is not None:
            await self._tls.close()
        self._service.stop_sweeping()
        self._service.pre_shutdown()
        self._service.end_streams()
        multiplexed = [one for one in self._service.open if isinstance(one, Http2Connection)]
        await asyncio.gather(
            self._service.shutdown(SHUTDOWN_MS / 1_000), *(one.finish() for one in multiplexed)
        )

    @property
    def connections(self) -> int:
        return len(self._service.open)

    async def _get_document(self, request: Request, _rest: str) -> web.StreamResponse:
        query_of(request, frozenset())
        if not self._document:
            self._document = msgspec.json.encode(document(self._router.described, version=__version__))
        return web.Response(body=self._document, content_type=JSON)

    def _protocol(self, alpn: str | None) -> asyncio.Protocol:
        """What speaks on a new TLS connection."""
        return Http2Connection(self._service) if alpn == "h2" else self._service()

    # --- one request --------------------------------------------------------------------------

    async def _answer(self, request: Request) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        path = target_of(request)[0]
        found = self._router.find(path)
        trace = self._tracing.begin(request.headers.get(HEADER))
        public = found is not None and found[0].public
        common = {**(_PUBLIC_HEADERS if public else _HEADERS), HEADER: trace.request_id}
        connection.begin_request(common)
        if found is None:
            response: web.StreamResponse = problem(404, "not_found", "there is nothing at this path")
        else:
            response = await self._admit(request, path, *found)
        if not response.prepared:
            response.headers.update(common)
            self._tracing.answered(trace, request.method, path, response.status)
        if not request.content.is_eof():
            connection.discard_rest()
        return response

    async def _admit(self, request: Request, path: str, route: Route, rest: str) -> web.StreamResponse:
        service = self._service
        if service.in_flight >= self._limits.in_flight:
            reason = f"{self._limits.in_flight} requests are being answered; try again"
            response: web.StreamResponse = problem(
                503, "overloaded", reason, {"Retry-After": RETRY_AFTER_SECONDS}
            )
        else:
            service.in_flight += 1
            try:
                response = await self._handle(request, route, rest)
            except InvariantViolation:
                raise
            except AspenError as error:
                response = answer_to(error)
            except OSError:
                # The client is gone: whatever is answered, nobody reads it.
                response = problem(400, "bad_request", "the connection ended")
            except Exception:
                trace = CURRENT.get()
                request_id = "" if trace is None else trace.request_id
                log.exception(
                    "a request failed", method=request.method, path=path[:200], request_id=request_id
                )
                response = problem(500, "internal", "an internal error; it is in the log")
            finally:
                service.in_flight -= 1
        return response

    async def _handle(self, request: Request, route: Route, rest: str) -> web.StreamResponse:
        if route.page:
            self._guard.check_page(request)
        elif not route.public:
            self._guard.check(request)
        method = request.method
        handler = route.handlers.get("GET" if method == "HEAD" else method)
        if handler is not None:
            return await handler(request, rest)
        allow = ", ".join(route.methods)
        if method == "OPTIONS" and route.public:
            return web.Response(
                status=204,
                headers={
                    "Allow": allow,
                    "Access-Control-Allow-Methods": allow,
                    "Access-Control-Allow-Headers": "*",
                    "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
                },
            )
        return problem(405, "method_not_allowed", f"{method} is not for this path", {"Allow": allow})


class HttpServer:
    """All HTTP of a node. Fill `public` and `admin` with routes, then `start`."""

    def __init__(
        self,
        *,
        listen: Address,
        admin_listen: Address | None = None,
        admin_token: str | None = None,
        https: Https | None = None,
        limits: HttpLimits | None = None,
        sockets: GivenSockets = NO_SOCKETS,
        slow: SlowLog | None = None,
    ) -> None:
        """`sockets` serve instead of the addresses given: it is theirs that decide what is loopback.

        Raises `ConfigError` for a separate admin listener that is open to the network.
        """
        listen = sockets.address("http") or listen
        admin_listen = sockets.address("admin") or admin_listen
        if admin_listen is not None and not names_loopback(admin_listen[0]) and not admin_token:
            raise ConfigError(
                f"admin_addr {admin_listen[0]} is not loopback: set admin_token, or bind 127.0.0.1"
            )
        self.public = Router()
        self.admin = Router()
        self._listen = listen
        self._admin_listen = admin_listen
        self._guard = AdminGuard([admin_token] if admin_token else [])
        self._https = https
        self._limits = limits if limits is not None else HttpLimits()
        self._sockets = sockets
        self._tracing = Tracing(slow if slow is not None else SlowLog())
        self._listeners: list[Listener] = []

    @property
    def admin_on_public(self) -> bool:
        """Whether admin routes are served on the public listener."""
        return self._admin_listen is None and (self._guard.asks_for_token or names_loopback(self._listen[0]))

    def accept_tokens(self, tokens: Sequence[str]) -> None:
        """The admin tokens that count from now on, where one counted before. Raises `ConfigError`."""
        self._guard.accept(tokens)

    async def start(self) -> None:
        """Raises `ConfigError` if a listener can't be had; none is left open then."""
        guard = self._guard
        public = self._routes(self.admin_on_public)
        plan = [("http", self._listen, Listener(public, guard, self._limits, None, self._tracing))]
        if self._admin_listen is not None:
            plan.append(
                (
                    "admin",
                    self._admin_listen,
                    Listener(self._routes(True), guard, self._limits, None, self._tracing),
                )
            )
        if self._https is not None:
            # Loopback is no reason here: what is encrypted is meant to be reached from elsewhere.
            router = self._routes(self._admin_listen is None and guard.asks_for_token)
            listener = Listener(router, guard, self._limits, self._https.context, self._tracing)
            plan.append(("https", self._https.address, listener))
        try:
            for name, address, listener in plan:
                await listener.start(address, self._sockets.stream(name))
                self._listeners.append(listener)
        except ConfigError:
            await self.close()
            raise
        if self.admin_address is None:
            log.warning("admin routes are not served: the listener is not loopback and no token is set")

    def _routes(self, admin: bool) -> Router:
        """A table of its own for one listener, with the admin routes or without."""
        return self.public.joined(self.admin if admin else Router())

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return bool(self._listeners)

    @property
    def address(self) -> Address:
        """The public listener's address as bound."""
        return self._listeners[0].address

    @property
    def admin_address(self) -> Address | None:
        """Where the admin routes are served, if anywhere."""
        if self._admin_listen is not None:
            return self._listeners[1].address
        return self._listeners[0].address if self.admin_on_public else None

    @property
    def https_address(self) -> Address | None:
        """The HTTPS listener's address as bound."""
        return self._listeners[-1].address if self._https is not None else None

    @property
    def connections(self) -> int:
        """Connections open now."""
        return sum(listener.connections for listener in self._listeners)

    async def close(self) -> None:
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        self._listeners.clear()
