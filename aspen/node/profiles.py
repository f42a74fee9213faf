"""Profiles of this node, and of any other member: what `aspen cluster profile` asks for.

A node's admin routes are for its own operators, mostly on its own machine. So that they can look at another
member too, the nodes ask each other, by a protocol of its own (`aspen-profile/1`): a stream, with the
seconds wanted one way, and the other way an answer and the profile in pieces. It is spoken between members
of the same cluster only, each with the key that the membership names.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import ControlPlaneError, HttpError
from aspen.http.errors import RETRY_AFTER_SECONDS
from aspen.limits import NET_DIAL_MS, PROFILE_ASK_MS, PROFILE_BYTES, PROFILE_MS, SNAPSHOT_CHUNK_BYTES
from aspen.net.endpoint import ALPN_PROFILE, Endpoint, FrameStream, Hello, Peer, Service
from aspen.node.dns import NodeDns
from aspen.profiler import Profile, profile
from aspen.raft.cluster import Consensus


class _Wanted(msgspec.Struct, frozen=True, array_like=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=PROFILE_MS / 1000)]


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """`size` bytes of a profile follow, unless there is a `refusal`."""

    refusal: str = ""
    size: Annotated[int, msgspec.Meta(ge=0, le=PROFILE_BYTES)] = 0


_ENCODER: Final = msgspec.msgpack.Encoder()
_WANTED: Final = msgspec.msgpack.Decoder(_Wanted)
_ANSWER: Final = msgspec.msgpack.Decoder(_Answer)
_PROFILE: Final = msgspec.msgpack.Decoder(Profile)
_TOO_LARGE: Final = "its profile is too large to be sent: ask for fewer seconds, or the node itself"


class NodeProfiles:
    """Give `service` to the endpoint."""

    def __init__(
        self, consensus: Consensus, endpoint: Callable[[], Endpoint], dns: Callable[[], NodeDns | None]
    ) -> None:
        self._consensus = consensus
        self._endpoint = endpoint
        self._dns = dns
        self._busy = False
        self._asking: Counter[bytes] = Counter()
        """Questions to others under way, by endpoint id."""

    def service(self, hello: Callable[[], Hello]) -> Service:
        return Service(alpn=ALPN_PROFILE, hello=hello, admit=self.admit, on_stream=self._serve)

    async def profile(self, node_id: int | None, seconds: float) -> Profile:
        """Of a member, or of this node. Raises `HttpError` or `ControlPlaneError`."""
        if node_id is None or node_id == self._consensus.node_id:
            return await self._own(seconds)
        endpoint_id = self._consensus.endpoint_of(node_id)
        if endpoint_id is None or self._consensus.roster.member(node_id) is None:
            raise ControlPlaneError.UnknownNode(f"node {node_id} is not a member")
        channel = self._endpoint().channel(ALPN_PROFILE)
        self._asking[endpoint_id] += 1
        try:
            async with asyncio.timeout(seconds + PROFILE_ASK_MS / 1000):
                stream = await channel.open_stream(endpoint_id)
                try:
                    return await _ask(stream, node_id, seconds)
                finally:
                    stream.close()
        except TimeoutError:
            raise _unavailable("unavailable", node_id, "it did not answer in time") from None
        except ConnectionError as error:
            raise _unavailable("unavailable", node_id, str(error)) from None
        finally:
            self._asking[endpoint_id] -= 1
            if not self._asking[endpoint_id]:
                del self._asking[endpoint_id]
                channel.hang_up(endpoint_id)

    async def _own(self, seconds: float) -> Profile:
        if self._busy:
            raise _unavailable("overloaded", self._consensus.node_id, "one is being made already")
        self._busy = True
        stop = threading.Event()
        try:
            dns = self._dns()
            pids = {"node": os.getpid(), **(dns.workers() if dns is not None else {})}
            return await asyncio.to_thread(profile, seconds, stop, pids)
        finally:
            stop.set()  # the node may be stopping
            self._busy = False

    # --- asked by another member --------------------------------------------------------------

    def admit(self, peer: Peer) -> str | None:
        """Why a peer isn't told; None for a member."""
        roster = self._consensus.roster
        member = roster.by_endpoint(peer.endpoint_id)
        if member is None or member.node_id != peer.node_id or peer.cluster_id != roster.cluster_id:
            return "not_admitted"
        return None

    async def _serve(self, _peer: Peer, stream: FrameStream) -> None:
        frame = await asyncio.wait_for(stream.receive(), NET_DIAL_MS / 1000)
        try:
            wanted = _WANTED.decode(frame or b"")
        except UNDECODABLE:
            raise ConnectionError("it asked for no profile") from None
        try:
            data = _ENCODER.encode(await self._own(wanted.seconds))
            answer = _Answer(size=len(data)) if len(data) <= PROFILE_BYTES else _Answer(_TOO_LARGE)
        except HttpError as error:
            data, answer = b"", _Answer(str(error))
        await stream.send(_ENCODER.encode(answer))
        for start in range(0, answer.size, SNAPSHOT_CHUNK_BYTES):
            await stream.send(data[start : start + SNAPSHOT_CHUNK_BYTES])


async def _ask(stream: FrameStream, node_id: int, seconds: float) -> Profile:
    """Raises `ConnectionError` or `HttpError`."""
    await stream.send(_ENCODER.encode(_Wanted(seconds)))
    try:
        answer = _ANSWER.decode(await _next(stream))
        if answer.refusal:
            raise _unavailable("overloaded", node_id, answer.refusal)
        data = bytearray()
        while len(data) < answer.size:
            data += await _next(stream)
        return _PROFILE.decode(data)
    except UNDECODABLE:
        raise ConnectionError("it answered with something else than a profile") from None


async def _next(stream: FrameStream) -> bytes:
    frame = await stream.receive()
    if not frame:
        raise ConnectionError("it ended the conversation")
    return frame


def _unavailable(code: str, node_id: int, why: str) -> HttpError:
    reason = f"no profile of node {node_id}: {why}"
    return HttpError(503, code, reason, headers={"Retry-After": RETRY_AFTER_SECONDS})
