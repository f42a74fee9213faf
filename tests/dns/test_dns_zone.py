"""Zones in memory: canonical order, empty non-terminals, longest zone (RFC 4034 §6, RFC 4592 §2.2.2)."""

from __future__ import annotations

import pytest

from aspen.dns.name import name_from_text
from aspen.dns.zone import MemoryZone, MemoryZones, ZoneReader, Zones, ZoneSettings, make_rrset
from aspen.errors import DnsWireError

SOA_RDATA = name_from_text("ns.example.") + name_from_text("h.example.") + bytes((0, 0, 0, 7)) + bytes(16)


def zone(apex: str = "Example.", *owners: str, enabled: bool = True) -> MemoryZone:
    records = [(name_from_text(apex), 6, 60, SOA_RDATA)]
    records += [(name_from_text(owner), 1, 60, b"\x01\x02\x03\x04") for owner in owners]
    return MemoryZone(name_from_text(apex), records, ZoneSettings(enabled=enabled))


def test_names_are_folded_and_empty_non_terminals_exist() -> None:
    reader: ZoneReader = zone("Example.", "a.b.C.example.")
    assert reader.apex == name_from_text("example.")
    assert reader.serial == 7
    assert reader.node(name_from_text("b.c.example.")) == {}
    assert reader.node(name_from_text("c.example.")) == {}
    assert reader.node(name_from_text("d.c.example.")) is None
    assert reader.node(name_from_text("a.b.c.example.")) == {1: (60, (b"\x01\x02\x03\x04",))}


def test_the_root_can_be_a_zone() -> None:
    reader = zone(".", "a.b.")
    assert reader.node(b"\x00") is not None
    assert reader.node(name_from_text("b.")) == {}


def test_walking_is_in_canonical_order_rfc4034_6_1() -> None:
    names = ["example.", "a.example.", "yljkjljk.a.example.", "Z.a.example.", "zABC.a.EXAMPLE.", "z.example."]
    names += ["\\001.z.example.", "*.z.example.", "\\200.z.example."]
    walked = [owner for owner, _ in zone("example.", *reversed(names[1:])).walk()]
    assert walked == [name_from_text(text).lower() for text in names]


def test_rdata_is_sorted_and_unique_by_its_canonical_form_rfc4034_6_3() -> None:
    upper, lower, other = (name_from_text(text) for text in ("NS.example.", "ns.example.", "a.example."))
    assert make_rrset(2, 60, [upper, lower, other]).rdatas == (other, upper)
    # Types younger than RFC 4034 keep names that differ in case apart.
    https = [b"\x00\x01" + upper, b"\x00\x01" + lower]
    assert len(make_rrset(65, 60, https).rdatas) == 2


def test_what_is_no_zone_is_refused() -> None:
    with pytest.raises(DnsWireError):
        MemoryZone(name_from_text("example."), [])
    with pytest.raises(DnsWireError):
        zone("example.", "notexample.")
    with pytest.raises(DnsWireError):
        make_rrset(1, 60, [b"\x01"])


def test_the_longest_enabled_zone_is_found() -> None:
    zones: Zones = MemoryZones([zone("example."), zone("b.example."), zone("c.example.", enabled=False)])
    for name, apex in (
        ("a.b.example.", "b.example."),
        ("a.c.example.", "example."),
        ("example.", "example."),
    ):
        found = zones.find(name_from_text(name))
        assert found is not None
        assert found.apex == name_from_text(apex)
    assert zones.find(name_from_text("notexample.")) is None
    disabled = zones.get(name_from_text("c.example."))
    assert disabled is not None
    assert not disabled.settings.enabled
