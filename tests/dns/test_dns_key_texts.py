"""Keys of the store as TXT records: which key a name is, and what its zone denies."""

from __future__ import annotations

import pytest

from aspen.dns.key_texts import ZonesAndKeys
from aspen.dns.lookup import View, locate
from aspen.dns.members import ServedZone
from aspen.dns.origin import DnsSettings
from aspen.dns.wire import SOA, TXT
from aspen.dns.zone import MemoryZone, MemoryZones
from aspen.limits import DNS_KV_TEXT_BYTES


class Keys:
    def __init__(self, **values: bytes) -> None:
        self.values = {name.encode(): value for name, value in values.items()}

    def value(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def any_under(self, prefix: bytes) -> bool:
        return any(key.startswith(prefix) for key in self.values)


class NoPackets:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


def wire(name: str) -> bytes:
    labels = [part.encode() for part in name.split(".") if part]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\x00"


KEYS = {"dns/web/port": b"8080", "dns/deep/er/key": b"", "dns/long": b"x" * 300, "other": b"hidden"}


@pytest.fixture
def view() -> View:
    keys = Keys()
    keys.values = {name.encode(): value for name, value in KEYS.items()}
    keys.values[b"dns/huge"] = bytes(DNS_KV_TEXT_BYTES + 1)
    return View.build(NoPackets(), DnsSettings(origins=("aspen.test",), kv_prefix="dns/"), texts=keys)


def zone_of(view: View, name: str) -> ServedZone:
    found = locate(view, wire(name), TXT)
    assert found is not None
    assert hasattr(found, "apex")
    return found  # type: ignore[return-value]


def text(view: View, name: str) -> bytes | None:
    node = zone_of(view, name).node(wire(name))
    return node[TXT].rdatas[0] if node else None


def test_a_name_is_a_key_read_from_its_highest_label(view: View) -> None:
    assert text(view, "port.web.kv.aspen.test") == b"\x048080"
    assert text(view, "key.er.deep.kv.aspen.test") == b"\x00"
    assert text(view, "long.kv.aspen.test") == b"\xff" + b"x" * 255 + b"\x2d" + b"x" * 45


def test_what_is_there_and_what_is_not_are_told_apart(view: View) -> None:
    zone = zone_of(view, "kv.aspen.test")
    assert zone.apex == wire("kv.aspen.test")
    assert SOA in (zone.node(zone.apex) or {})
    assert zone.node(wire("web.kv.aspen.test")) == {}, "an empty non-terminal"
    assert zone.node(wire("huge.kv.aspen.test")) == {}, "too long to be shown, but there"
    for absent in ("we", "other", "port", "x.port.web"):
        assert zone.node(wire(f"{absent}.kv.aspen.test")) is None
    assert zone.node(wire(".".join(["y" * 60] * 3) + ".kv.aspen.test")) is None


def test_there_is_no_such_zone_unless_asked_for() -> None:
    view = View.build(NoPackets(), DnsSettings(origins=("aspen.test",)), texts=Keys())
    assert zone_of(view, "web.kv.aspen.test").apex == wire("aspen.test")


def test_an_authored_zone_comes_first(view: View) -> None:
    soa = b"\x00\x00" + bytes(20)
    authored = MemoryZone(wire("web.kv.aspen.test"), [(wire("web.kv.aspen.test"), SOA, 60, soa)])
    node = zone_of(view, "kv.aspen.test").node(wire("kv.aspen.test"))
    assert node is not None
    zones = ZonesAndKeys(MemoryZones([authored]), {wire("aspen.test"): node}, Keys(), b"dns/")
    assert zones.find(wire("port.web.kv.aspen.test")) is authored
    found = zones.find(wire("port.kv.aspen.test"))
    assert found is not None
    assert found.apex == wire("kv.aspen.test")
    assert zones.find(wire("aspen.test")) is None
