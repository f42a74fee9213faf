"""A TCP listener whose connections speak TLS, within bounds (RFC 8446).

asyncio's own TLS servers show a connection only once its handshake is over, so nobody counts those
inside it, and the protocol can't be chosen by what was negotiated. Here a connection is counted from
its first moment: handshakes have a deadline, a bound in all and for each client, and when there are
too many, the one that has taken longest goes (an honest one is over in a moment). Once it is done,
whatever protocol fits the negotiated ALPN (RFC 7301) takes over.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import structlog

from aspen.dns.stream import client_of
from aspen.limits import (
    TLS_BACKLOG,
    TLS_CLOSE_MS,
    TLS_HANDSHAKE_MS,
    TLS_HANDSHAKES,
    TLS_HANDSHAKES_PER_CLIENT,
)

log = structlog.get_logger("aspen.tls")

MakeProtocol = Callable[[str | None], asyncio.Protocol]
"""The protocol for a connection, by its ALPN (None: the client named none that is known)."""

_ACCEPT_RETRY_S: Final = 0.5


class TlsListener:
    """Accepts, shakes hands, hands over. Use from one event loop."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        make_protocol: MakeProtocol,
        *,
        handshake_ms: int = TLS_HANDSHAKE_MS,
        handshakes_max: int = TLS_HANDSHAKES,
        handshakes_per_client: int = TLS_HANDSHAKES_PER_CLIENT,
    ) -> None:
        """`context` is asked for each connection."""
        self._context = context
        self._make_protocol = make_protocol
        self._handshake_s = handshake_ms / 1_000
        self._max = handshakes_max
        self._per_client = handshakes_per_client
        self.failed = 0
        """Handshakes that came to nothing."""
        self.refused = 0
        """Connections cut off because there were too many handshakes."""
        self._shaking: dict[socket.socket, asyncio.Task[None]] = {}  # the oldest first
        self._clients: Counter[str] = Counter()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def handshakes(self) -> int:
        """Going on now."""
        return len(self._shaking)

    def start(self, sock: socket.socket) -> tuple[str, int]:
        """Listen on a bound socket, which is closed with this; its address."""
        sock.setblocking(False)
        sock.listen(TLS_BACKLOG)
        self._socket = sock
        self._accepting = asyncio.create_task(self._accept(sock), name="tls listener")
        host, port = sock.getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Accept no more, and cut off who is in the handshake. Whose handshake is done stays."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        for sock in self._shaking:
            _cut(sock)
        await asyncio.gather(*self._shaking.values(), return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                # Too many open files, or a connection that ended before it was accepted.
                log.warning("can't accept", reason=str(error))
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            if not self._begin(sock, client_of(address)):
                sock.close()

    def _begin(self, sock: socket.socket, client: str) -> bool:
        if self._clients[client] >= self._per_client:
            self.refused += 1
            return False
        if len(self._shaking) >= self._max:
            self.refused += 1
            oldest = next(iter(self._shaking))
            self._shaking[oldest] = self._shaking.pop(oldest)  # it ends by itself; don't cut it twice
            _cut(oldest)
        self._clients[client] += 1
        self._shaking[sock] = asyncio.create_task(self._shake(sock, client))
        return True

    async def _shake(self, sock: socket.socket, client: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Switch(self._make_protocol),
                sock,
                ssl=self._context(),
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=TLS_CLOSE_MS / 1_000,
            )
        except (OSError, ssl.SSLError):
            self.failed += 1
        except Exception:
            self.failed += 1
            log.exception("a TLS handshake failed")
        finally:
            del self._shaking[sock]
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class _Switch(asyncio.Protocol):
    """Steps aside for the right protocol as soon as the handshake is done."""

    def __init__(self, make_protocol: MakeProtocol) -> None:
        self._make_protocol = make_protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        ssl_object: ssl.SSLObject = transport.get_extra_info("ssl_object")
        protocol = self._make_protocol(ssl_object.selected_alpn_protocol())
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _cut(sock: Any) -> None:
    """End a connection whose transport isn't to be had: TLS then fails by itself."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended already
