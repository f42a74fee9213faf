"""A cluster of nothing but dictionaries, and a client that sends exactly the bytes it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from aspen.errors import AspenError
from aspen.http.cluster import ClusterStatus, MemberStatus
from aspen.http.control import CheckReport, Founder, MemberCheck
from aspen.http.health import Health
from aspen.http.server import HttpServer
from aspen.services.kv_service import KvService
from aspen.state.apply import ApplyContext
from aspen.state.commands import Command, Result
from aspen.state.kv import KV_HANDLERS
from aspen.state.kv_commands import KvEntry, KvSet
from aspen.state.kv_reader import KvRange
from aspen.state.memory_store import MemoryStore
from aspen.state.packet_commands import PacketDelete, PacketOutcome, PacketPut, PacketResult
from aspen.state.packet_events import LmdbPacketEvents
from aspen.state.packets import PacketRecord, PacketUsage
from aspen.state.ports import Consistency, Freshness
from aspen.state.settings import SettingDelete, SettingPut, SettingResult

Serve = Callable[..., Awaitable[HttpServer]]
"""The fixture that starts a server."""

NODE_MS = 1_700_000_000_000
"""What the fake cluster's clock says."""


@dataclass
class FakeCluster:
    """Proposer, readers and cluster view in one; `commands` and `barriers` tell what was asked."""

    packets: dict[bytes, PacketRecord] = field(default_factory=dict)
    settings: dict[str, bytes] = field(default_factory=dict)
    kv_store: MemoryStore = field(default_factory=MemoryStore)
    applied: int = 0
    time_ms: int = NODE_MS
    """The leader's clock."""
    commands: list[Command] = field(default_factory=list)
    barriers: list[Consistency] = field(default_factory=list)
    changes: list[tuple[Any, ...]] = field(default_factory=list)
    """What was asked of the cluster's control."""
    failure: AspenError | Exception | None = None
    """Raised by every proposal and barrier."""
    held: asyncio.Event | None = None
    """Proposals wait for it."""
    answer: Result | None = None
    """Given instead of what applying would say."""
    health_now: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        self.kv = KvService(self.kv_store, self, lambda: self.time_ms)

    async def propose(self, command: Command) -> Result:
        self.commands.append(command)
        if self.held is not None:
            await self.held.wait()
        if self.failure is not None:
            raise self.failure
        if self.answer is not None:
            return self.answer
        match command:
            case PacketPut():
                return self._put(command)
            case PacketDelete(public_key=key):
                packet = self.packets.get(key)
                if packet is None or not packet.payload:
                    return PacketResult(PacketOutcome.ABSENT, 0)
                self.packets[key] = packet._replace(tombstone=True, payload=b"")
                return PacketResult(PacketOutcome.DELETED, packet.timestamp_us)
            case SettingPut(name=name, value=value):
                self.settings[name] = value
                return SettingResult(True)
            case SettingDelete(name=name):
                return SettingResult(self.settings.pop(name, None) is not None)
            case _:
                return self.apply(command)

    def apply(self, command: Any) -> Any:
        """Apply a key-value command, as a machine would."""
        self.applied += 1
        with self.kv_store.write() as txn:
            context = ApplyContext(self.kv_store, txn, self.applied, self.time_ms)
            result = KV_HANDLERS[type(command)](context, command)
        self.kv.wake()
        return result

    def set(self, **pairs: bytes) -> None:
        """Set keys behind the server's back."""
        self.apply(KvSet(tuple((key.encode(), value) for key, value in pairs.items())))

    @property
    def entries(self) -> dict[bytes, KvEntry]:
        return {entry.key: entry for entry in self.kv.reader.scan(KvRange(), 10**6, 10**9).entries}

    def _put(self, command: PacketPut) -> PacketResult:
        timestamp_us = int.from_bytes(command.payload[64:72], "big")
        old = self.packets.get(command.public_key)
        if old is not None and command.payload[64:] < old.payload[64:]:
            return PacketResult(PacketOutcome.OLDER, old.timestamp_us)
        identical = old is not None and command.payload[64:] == old.payload[64:]
        self.packets[command.public_key] = PacketRecord(
            command.public_key, timestamp_us, NODE_MS, False, b"", command.payload
        )
        return PacketResult(PacketOutcome.IDENTICAL if identical else PacketOutcome.STORED, timestamp_us)

    async def barrier(self, consistency: Consistency) -> None:
        self.barriers.append(consistency)
        if self.failure is not None:
            raise self.failure

    def freshness(self) -> Freshness:
        return Freshness(applied_index=42, leader_id=1, last_contact_ms=7)

    # --- readers ------------------------------------------------------------------------------

    @property
    def packet_reader(self) -> PacketView:
        return PacketView(self.packets)

    @property
    def packet_events(self) -> LmdbPacketEvents:
        """Of an empty replica."""
        return LmdbPacketEvents(MemoryStore())

    def status(self) -> ClusterStatus:
        member = MemberStatus(1, "y" * 52, "voter", ("127.0.0.1:7300",))
        return ClusterStatus(
            node_id=1,
            endpoint_id="y" * 52,
            cluster_id="00" * 16,
            role="leader",
            leader_id=1,
            term=3,
            commit_index=42,
            applied_index=42,
            last_contact_ms=0,
            version="0.1.0",
            members=(member,),
            refusals={},
        )

    def health(self) -> Health:
        return self.health_now

    # --- control --------------------------------------------------------------------------------

    def founder(self) -> Founder:
        return 1, b"k" * 32, (("127.0.0.1", 7300),)

    async def compact(self) -> int:
        return 40

    async def check(self, timeout_ms: int, index: int = 0) -> CheckReport:
        self.changes.append(("check", timeout_ms))
        return CheckReport(42, False, (MemberCheck(1, "alike", "ab"), MemberCheck(2, "silent", None)))

    async def found(self, members: Sequence[Founder]) -> None:
        await self._changed("found", list(members))

    async def add_learner(
        self, node_id: int, endpoint_id: bytes, addresses: tuple[tuple[str, int], ...], timeout_ms: int = 0
    ) -> None:
        await self._changed("add_learner", node_id, endpoint_id, addresses, timeout_ms)

    async def promote(self, node_id: int, timeout_ms: int = 0) -> None:
        await self._changed("promote", node_id, timeout_ms)

    async def remove(self, node_id: int, timeout_ms: int = 0) -> None:
        await self._changed("remove", node_id, timeout_ms)

    async def change_membership(self, voters: frozenset[int], timeout_ms: int = 0) -> None:
        await self._changed("change_membership", voters, timeout_ms)

    async def transfer_leader(self, to: int, timeout_ms: int = 0) -> None:
        await self._changed("transfer_leader", to, timeout_ms)

    async def _changed(self, *what: Any) -> None:
        self.changes.append(what)
        if self.failure is not None:
            raise self.failure


class PacketView:
    def __init__(self, packets: dict[bytes, PacketRecord]) -> None:
        self.get: Callable[[bytes], PacketRecord | None] = packets.get
        self._packets = packets

    def usage(self) -> PacketUsage:
        return PacketUsage(len(self._packets), len(self._packets) * 4_096)


class SettingView:
    """The cluster's settings, in a dict."""

    def __init__(self, settings: dict[str, bytes]) -> None:
        self._settings = settings

    def get(self, name: str) -> bytes | None:
        return self._settings.get(name)

    def any_under(self, prefix: str) -> bool:
        return bool(self.under(prefix))

    def under(self, prefix: str) -> dict[str, bytes]:
        return {name: value for name, value in sorted(self._settings.items()) if name.startswith(prefix)}


# --- a client ---------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """(status, code), after checking that it is an error as all errors are."""
        assert self.headers["content-type"] == "application/json", self
        problem = self.json
        assert isinstance(problem["reason"], str)
        assert problem["reason"], self
        return self.status, problem["error"]


class Line:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    opened: ClassVar[list[Line]] = []
    """All of one test; the fixture closes what the test leaves open."""

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Line:
        line = cls(*await asyncio.open_connection(*address))
        cls.opened.append(line)
        return line

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer (to `method`: an answer to HEAD has no body)."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode().rstrip().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        status = int(status_line.split()[1])
        body = b""
        if method != "HEAD" and status not in (204, 304) and status >= 200 and "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif (
            method != "HEAD" and "dns" in headers.get("content-type", "") and "content-length" not in headers
        ):
            body = await self._chunks()
        return Answer(status, headers, body)

    async def _chunks(self) -> bytes:
        """The rest of an answer of unknown length (RFC 9112 §7.1)."""
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body

    async def ended(self) -> bool:
        """Wait until the server closes; whether it sent nothing more."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


class Told(NamedTuple):
    """An event as a client of a stream sees it."""

    name: str
    data: Any
    id: int | None


class EventLine:
    """A client of server-sent events."""

    def __init__(self, line: Line, head: Answer) -> None:
        self.line = line
        self.head = head
        self._text = b""

    @classmethod
    async def open(cls, address: tuple[str, int], target: str, **headers: str) -> EventLine:
        """Ask and read the answer's head; an answer that is no stream is there whole."""
        line = await Line.open(address)
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await line.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
        return cls(line, await line.answer())

    async def block(self) -> bytes | None:
        """What stands before the next empty line; None at the end of the answer."""
        async with asyncio.timeout(30):
            while b"\n\n" not in self._text:
                size = int(await self.line.reader.readline(), 16)
                self._text += await self.line.reader.readexactly(size)
                await self.line.reader.readexactly(2)
                if not size:
                    assert self._text == b"", "the stream ended inside an event"
                    return None
        block, _, self._text = self._text.partition(b"\n\n")
        return block

    async def event(self) -> Told | None:
        """The next event, comments and the like passed over; None at the end."""
        while (block := await self.block()) is not None:
            fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
            if "data" in fields:
                number = int(fields["id"]) if "id" in fields else None
                return Told(fields.get("event", "message"), json.loads(fields["data"]), number)
        return None

    async def close(self) -> None:
        await self.line.close()


class Client:
    """Requests over one kept-alive connection, opened anew when the server closed it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self._line: Line | None = None

    async def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """`headers` by name with underscores for hyphens; `Host` is right unless given."""
        fields = {"Host": f"{self.address[0]}:{self.address[1]}"}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        if self._line is None:
            self._line = await Line.open(self.address)
        line = self._line
        await line.send(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + (body or b""))
        answer = await line.answer(method)
        if answer.headers.get("connection") == "close":
            await self.close()
        return answer

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.request("GET", target, **headers)

    async def put(self, target: str, body: bytes, **headers: str) -> Answer:
        return await self.request("PUT", target, body, **headers)

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()
            self._line = None


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for something that no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)
