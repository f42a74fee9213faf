"""One relay, as a node uses it: connected as long as it is wanted, found again when it was lost (shell)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import structlog

from aspen.errors import RelayError
from aspen.identity import Authenticator, Identity
from aspen.limits import (
    RELAY_FRAME_BYTES,
    RELAY_HANDSHAKE_MS,
    RELAY_HEARTBEAT_MS,
    RELAY_QUEUE_BYTES,
    RELAY_RECONNECT_MAX_MS,
    RELAY_RECONNECT_MIN_MS,
)
from aspen.relay.access import RelayUrl, prove
from aspen.relay.frames import (
    Challenge,
    Datagram,
    Frame,
    Gone,
    Observed,
    Refused,
    Welcome,
    decode_frame,
    encode_datagram,
    encode_frame,
)
from aspen.relay.hub import DroppingQueue
from aspen.relay.observer import probe

log = structlog.get_logger("aspen.relay")

Receive = Callable[[bytes, bytes], None]
"""(endpoint id of the sender, datagram)."""

_LAST_TURNS: Final = 20
_LAST_TURN_S: Final = 0.01

# Refusals that the next attempt will meet too: no hurry then.
_LASTING: Final = frozenset({"version", "wrong_name", "wrong_key", "not_allowed", "replaced"})


class RelayClient:
    """A connection to one relay. Start it; `send` drops while there is none."""

    def __init__(
        self,
        url: RelayUrl,
        identity: Identity,
        authenticators: Sequence[Authenticator],
        receive: Receive,
        gone: Callable[[bytes], None],
        connected: Callable[[], None],
    ) -> None:
        """`authenticators` are of the cookies, for a relay that asks. `gone` hears of each peer that the
        relay doesn't know just now, `connected` each time that the relay has let this node in."""
        self.url = url
        self.connected = False
        self.problem = ""
        """Why it isn't connected, if it was tried."""
        self.probe: tuple[tuple[str, int], bytes] | None = None
        """Where to send what by UDP, for the relay to tell where it came from."""
        self.observed: tuple[str, int] | None = None
        """Where it came from, the last time."""
        self._identity = identity
        self._authenticators = authenticators
        self._receive = receive
        self._gone = gone
        self._on_connected = connected
        self._queue = DroppingQueue(RELAY_QUEUE_BYTES)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rng = random.Random()  # noqa: S311  jitter, not secrecy

    def start(self) -> None:
        self._task = asyncio.create_task(self._stay_connected(), name="relay client")

    async def stop(self) -> None:
        """Ends when what was sent is on its way, or soon."""
        for _ in range(_LAST_TURNS):
            if not (self.connected and self._queue):
                break
            await asyncio.sleep(_LAST_TURN_S)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, peer: bytes, datagram: bytes) -> None:
        """Never blocks; what waits for too long is dropped, the oldest first."""
        if self.connected:
            self._queue.push(encode_datagram(peer, datagram))
            self._woken.set()

    async def _stay_connected(self) -> None:
        failures = 0
        async with aiohttp.ClientSession() as session:
            while True:
                code = "unreachable"
                try:
                    await self._connect(session)
                    failures, problem = 0, "the connection was lost"
                except RelayError as error:
                    code, problem = error.code, str(error)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    problem = str(error) or type(error).__name__
                except Exception as error:
                    log.exception("a relay's client failed", relay=self.url.websocket)
                    problem = type(error).__name__
                was_connected, self.connected = self.connected, False
                self.probe = None
                if was_connected:
                    failures = 0
                if was_connected or problem != self.problem:
                    log.warning("no relay", relay=self.url.websocket, code=code, reason=problem)
                self.problem = problem
                await asyncio.sleep(self._wait_s(failures, code))
                failures += 1

    def _wait_s(self, failures: int, code: str) -> float:
        """Exponential, with full jitter, so that the clients of a relay that restarts don't come in step."""
        ceiling = RELAY_RECONNECT_MAX_MS
        if code not in _LASTING:
            ceiling = min(ceiling, RELAY_RECONNECT_MIN_MS << min(failures, 16))
        return (RELAY_RECONNECT_MIN_MS + ceiling * self._rng.random()) / 1000

    async def _connect(self, session: aiohttp.ClientSession) -> None:
        """Returns when a connection that was made is lost. Raises what it failed with."""
        socket, welcome = await _enter(session, self.url, self._identity, self._authenticators)
        writer: asyncio.Task[None] | None = None
        try:
            peername = socket.get_extra_info("peername")
            if welcome.udp_port and peername is not None:
                self.probe = (str(peername[0]), welcome.udp_port), probe(welcome.token)
            self._queue.clear()
            self.connected, self.problem = True, ""
            log.info("relay connected", relay=self.url.websocket)
            self._on_connected()
            writer = asyncio.create_task(self._write(socket), name="relay client writer")
            while True:
                self._take(await _next(socket))
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            await socket.close()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Datagram):
            self._receive(frame.peer, frame.payload)
        elif isinstance(frame, Gone):
            self._gone(frame.peer)
        elif isinstance(frame, Observed):
            self.observed = frame.host, frame.port
        else:
            raise RelayError("malformed", "a relay sends datagrams here, and nothing else")

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            frame = self._queue.pop()
            if frame is not None:
                await socket.send_bytes(frame)
            else:
                self._woken.clear()
                await self._woken.wait()


async def knock(url: RelayUrl, authenticators: Sequence[Authenticator]) -> None:
    """Find out whether a relay lets in who knows the cookie, under a key made for this.

    Raises `RelayError`, `aiohttp.ClientError`, `OSError` (`TimeoutError` too).
    """
    async with aiohttp.ClientSession() as session:
        socket, _ = await _enter(session, url, Identity.generate(), authenticators)
        await socket.close()


async def _enter(
    session: aiohttp.ClientSession,
    url: RelayUrl,
    identity: Identity,
    authenticators: Sequence[Authenticator],
) -> tuple[aiohttp.ClientWebSocketResponse, Welcome]:
    """Connect, and prove who we are. Raises as `knock`."""
    async with asyncio.timeout(RELAY_HANDSHAKE_MS / 1000):
        socket = await session.ws_connect(
            url.websocket, heartbeat=RELAY_HEARTBEAT_MS / 1000, max_msg_size=RELAY_FRAME_BYTES
        )
        try:
            challenge = await _next(socket)
            if not isinstance(challenge, Challenge):
                raise RelayError("malformed", "what answers there is not a relay")
            await socket.send_bytes(encode_frame(prove(identity, challenge, url.name, authenticators)))
            welcome = await _next(socket)
            if not isinstance(welcome, Welcome):
                raise RelayError("malformed", "the relay does not say that it let this node in")
        except BaseException:
            await socket.close()
            raise
    return socket, welcome


async def _next(socket: aiohttp.ClientWebSocketResponse) -> Frame:
    """The relay's next frame. Raises `RelayError` for what is none, and for a refusal; `ConnectionError` at
    the end."""
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.BINARY:
        raise ConnectionError("the relay closed the connection")
    frame = decode_frame(message.data)
    if isinstance(frame, Refused):
        raise RelayError(frame.code, frame.reason)
    return frame
