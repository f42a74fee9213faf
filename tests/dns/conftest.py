"""What the DNS tests share: keys, packets built by dnspython, and a server without sockets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.message import validate_message
from aspen.dns.packet_zone import build_ready_answers
from aspen.dns.respond import Reply, Transport, answer
from aspen.dns.zone import MemoryZones, ZoneReader
from aspen.state.apply import ApplyContext
from aspen.state.packet_commands import PacketPut
from aspen.state.packets import LmdbRecords, apply_packet_put
from aspen.state.status_page import StatusPage
from aspen.state.store import Store
from aspen.z32 import encode_key

sys.path.insert(0, str(Path(__file__).parent))

KEY = bytes(range(32))
Z32 = encode_key(KEY)
OTHER_Z32 = encode_key(bytes(32))


def make_packet(records: str, z32: str = Z32, *, authority: str = "", compress: bool = True) -> bytes:
    """A pkarr packet's DNS message. Lines are `owner ttl type rdata`; `@` and relative owners are the
    key's; `KEY` in RDATA stands for its name."""
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR
    for section, lines in ((message.answer, records), (message.authority, authority)):
        for line in filter(None, map(str.strip, lines.splitlines())):
            owner, ttl, rrtype, rdata = line.split(None, 3)
            name = dns.name.from_text(owner, dns.name.from_text(z32))
            rdata = rdata.replace("KEY", z32)
            rrset = dns.rrset.from_text(name, int(ttl), "IN", rrtype, rdata)
            section.append(rrset)
    if compress:
        return message.to_wire(max_size=65_535)
    return b"".join(
        [
            message.to_wire(max_size=65_535)[:12],
            *(
                rrset.name.to_wire()
                + rrset.rdtype.to_bytes(2, "big")
                + b"\x00\x01"
                + rrset.ttl.to_bytes(4, "big")
                + len(rrset[0].to_wire()).to_bytes(2, "big")
                + rrset[0].to_wire()
                for rrset in (*message.answer, *message.authority)
            ),
        ]
    )


@dataclass
class MemoryRecords:
    """`Records` in a dict."""

    packets: dict[bytes, bytes] = field(default_factory=dict)

    def put(self, message: bytes, key: bytes = KEY) -> None:
        validate_message(message)
        self.packets[key] = build_ready_answers(message, encode_key(key).encode())

    def packet_answers(self, public_key: bytes) -> bytes | None:
        return self.packets.get(public_key)


class Served:
    """A view to ask: every answer passes through dnspython, an independent decoder."""

    def __init__(self, records: str = "", zones: Iterable[ZoneReader] = (), **settings: object) -> None:
        self.records = MemoryRecords()
        self.settings = DnsSettings(**settings)  # type: ignore[arg-type]  # keyword soup of the tests
        if records:
            self.put(records)
        self.view = View.build(self.records, self.settings, MemoryZones(zones))
        self.client = b"\x7f\x00\x00\x01"

    def put(self, records: str, key: bytes = KEY) -> None:
        self.records.put(make_packet(records, encode_key(key)), key)

    def ask(
        self, name: str, rrtype: str = "TXT", *, transport: Transport = Transport.UDP, **options: object
    ) -> dns.message.Message:
        query = dns.message.make_query(name, rrtype, **options)  # type: ignore[arg-type]
        reply = self.ask_wire(query.to_wire(), transport)
        assert reply is not None
        message = dns.message.from_wire(reply)
        assert query.is_response(message)
        return message

    def ask_wire(self, query: bytes, transport: Transport = Transport.UDP) -> bytes | None:
        reply = self.ask_for_reply(query, transport)
        return None if reply is None else reply.message

    def ask_for_reply(self, query: bytes, transport: Transport = Transport.UDP) -> Reply | None:
        return answer(query, self.view, transport, self.client)


@pytest.fixture
def z32() -> str:
    return Z32


@pytest.fixture
def other_z32() -> str:
    """A valid key nobody published under."""
    return OTHER_Z32


@pytest.fixture
def packet() -> Callable[..., bytes]:
    return make_packet


@pytest.fixture
def serve() -> type[Served]:
    return Served


@pytest.fixture
def served() -> Served:
    """A key with the records an iroh endpoint publishes, and some of other types."""
    return Served(
        """
        _iroh 30 TXT "relay=https://relay.example./"
        _iroh 30 TXT "addr=192.0.2.1:1234"
        @ 300 A 192.0.2.1
        @ 300 AAAA 2001:db8::1
        @ 300 MX 10 mail.KEY.
        mail 60 A 192.0.2.25
        www 60 CNAME KEY.
        deep.er.down 60 TXT "deep"
        _http._tcp 60 SRV 0 5 80 www.KEY.
        """
    )


@pytest.fixture(scope="module")
def module_serve() -> type[Served]:
    return Served


@pytest.fixture(scope="module")
def module_z32() -> str:
    return Z32


@dataclass
class Replica:
    """A real store on disk with a status page, written to as the node would."""

    store: Store
    page: StatusPage
    data_dir: Path

    def put(self, records: str, key: bytes = KEY, timestamp_us: int = 1) -> None:
        message = make_packet(records, encode_key(key))
        payload = bytes(64) + timestamp_us.to_bytes(8, "big") + message
        with self.store.write() as txn:
            apply_packet_put(
                ApplyContext(self.store, txn, 1, time.time_ns() // 1_000_000), PacketPut(key, payload)
            )
        self.page.note_changes({key})

    @property
    def page_path(self) -> Path:
        return self.data_dir / "status.page"

    def view(self) -> View:
        return View.build(LmdbRecords(self.store), DnsSettings())


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    store = Store.open(tmp_path)
    page = StatusPage.create(tmp_path / "status.page", workers=2)
    replica = Replica(store, page, tmp_path)
    replica.put('_iroh 30 TXT "relay=https://relay.example./"\n@ 300 A 192.0.2.1\nwww 60 CNAME KEY.')
    yield replica
    page.close()
    store.close()
