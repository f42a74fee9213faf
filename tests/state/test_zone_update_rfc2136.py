"""Updates of a zone: RFC 2136's prerequisites and changes, and the rules that no change may break."""

from __future__ import annotations

import pytest
from zone_world import (
    CNAME,
    DNAME,
    MX,
    NS,
    SOA,
    SRV,
    TXT,
    A,
    World,
    a,
    add,
    basics,
    n,
    named,
    remove,
    soa,
    txt,
)

from aspen.dns.zone_rules import ZoneRecord
from aspen.state.memory_store import MemoryStore
from aspen.state.zone_commands import (
    Change,
    ChangeKind,
    Prerequisite,
    PrerequisiteKind,
    ZoneResult,
    ZoneStage,
    ZoneStatus,
)

ZONE = "example.com."
WWW = "www.example.com."
NOERROR, FORMERR, NXDOMAIN, REFUSED, YXDOMAIN, YXRRSET, NXRRSET, NOTZONE = 0, 1, 3, 5, 6, 7, 8, 10


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.create(ZONE, a(WWW, "192.0.2.1"), a(WWW, "192.0.2.2"), txt("a.b.example.com.", "x"))
    return world


def delete_rrset(owner: str, rrtype: int) -> Change:
    return Change(ChangeKind.DELETE_RRSET, n(owner), rrtype)


def delete_name(owner: str) -> Change:
    return Change(ChangeKind.DELETE_NAME, n(owner))


# --- prerequisites (§2.4, §3.2) --------------------------------------------------------------------

ONE, TWO, THREE = (bytes((192, 0, 2, i)) for i in (1, 2, 3))
K = PrerequisiteKind


@pytest.mark.parametrize(
    ("prerequisite", "rcode"),
    [
        (Prerequisite(K.RRSET_EXISTS, n(WWW), A), NOERROR),
        (Prerequisite(K.RRSET_EXISTS, n(WWW), TXT), NXRRSET),
        (Prerequisite(K.RRSET_EXISTS, n("none.example.com."), A), NXRRSET),
        (Prerequisite(K.RRSET_IS, n(WWW), A, (TWO, ONE)), NOERROR),
        (Prerequisite(K.RRSET_IS, n(WWW), A, (ONE,)), NXRRSET),
        (Prerequisite(K.RRSET_IS, n(WWW), A, (ONE, TWO, THREE)), NXRRSET),
        (Prerequisite(K.RRSET_IS, n(ZONE), NS, (b"\x03NS1\x07Example\x03com\0",)), NOERROR),
        (Prerequisite(K.RRSET_IS, n(WWW), A, (b"short",)), FORMERR),
        (Prerequisite(K.RRSET_ABSENT, n(WWW), TXT), NOERROR),
        (Prerequisite(K.RRSET_ABSENT, n(WWW), A), YXRRSET),
        (Prerequisite(K.NAME_IN_USE, n(WWW)), NOERROR),
        (Prerequisite(K.NAME_IN_USE, n("none.example.com.")), NXDOMAIN),
        (Prerequisite(K.NAME_IN_USE, n("b.example.com.")), NXDOMAIN),  # an empty non-terminal
        (Prerequisite(K.NAME_NOT_IN_USE, n("b.example.com.")), NOERROR),
        (Prerequisite(K.NAME_NOT_IN_USE, n(WWW)), YXDOMAIN),
        (Prerequisite(K.NAME_IN_USE, n("example.org.")), NOTZONE),
    ],
)
def test_a_change_happens_only_if_its_prerequisites_hold(
    world: World, prerequisite: Prerequisite, rcode: int
) -> None:
    before = world.records(ZONE)
    first = Prerequisite(K.NAME_IN_USE, n(ZONE))
    result = world.update(
        ZONE, add(txt("t.example.com.", "t")), strict=False, prerequisites=(first, prerequisite)
    )
    assert result.rcode == rcode
    if rcode:
        assert (result.status, result.at) == (ZoneStatus.PREREQUISITE, 1)
        assert world.records(ZONE) == before
        assert not world.dns_changed
    else:
        assert result.status is ZoneStatus.DONE
        assert len(world.records(ZONE)) == len(before) + 1


def test_prerequisites_look_at_the_zone_before_the_changes(world: World) -> None:
    absent = Prerequisite(K.NAME_NOT_IN_USE, n("t.example.com."))
    assert world.update(ZONE, add(txt("t.example.com.", "t")), prerequisites=[absent]).serial == 2
    assert world.update(ZONE, delete_name("t.example.com."), prerequisites=[absent]).rcode == YXDOMAIN


# --- changes (§2.5, §3.4) ---------------------------------------------------------------------------


def test_records_rrsets_and_names_are_deleted(world: World) -> None:
    assert world.update(ZONE, remove(a(WWW, "192.0.2.1", ttl=0)), strict=False).changed == 1
    assert world.update(ZONE, add(txt(WWW, "t")), delete_rrset(WWW, A), strict=False).changed == 2
    node = world.zone(ZONE).node(n(WWW))
    assert node is not None
    assert set(node) == {TXT}
    world.update(ZONE, delete_name("a.b.example.com."), delete_name(WWW), strict=False)
    for gone in (WWW, "a.b.example.com.", "b.example.com."):
        assert world.zone(ZONE).node(n(gone)) is None


def test_deleting_names_in_rdata_ignores_their_case_and_adding_takes_the_new_spelling(world: World) -> None:
    world.update(ZONE, add(named(WWW, NS, "Ns.Example.com.")), strict=False)
    world.update(ZONE, add(named(WWW, NS, "NS.example.com.")), strict=False)
    node = world.zone(ZONE).node(n(WWW))
    assert node is not None
    assert node[NS].rdatas == (b"\x02NS\x07example\x03com\0",)
    assert world.update(ZONE, remove(named(WWW, NS, "ns.EXAMPLE.com.")), strict=False).changed == 1


def test_an_added_record_gives_its_ttl_to_the_whole_rrset(world: World) -> None:
    world.update(ZONE, add(a(WWW, "192.0.2.3", ttl=77)), strict=False)
    node = world.zone(ZONE).node(n(WWW))
    assert node is not None
    assert node[A].ttl == 77
    assert len(node[A].rdatas) == 3


def test_what_rfc_2136_says_to_ignore_is_ignored(world: World) -> None:
    """§3.4.2.2 to §3.4.2.4: never an alias beside data, never a zone without SOA and NS."""
    before = world.records(ZONE)
    ignored = [
        add(named(WWW, CNAME, "other.example.com.")),
        delete_rrset(ZONE, NS),
        delete_rrset(ZONE, SOA),
        delete_name(ZONE),
        remove(named(ZONE, NS, "ns1." + ZONE)),
        remove(soa(ZONE)),
        add(soa(ZONE, serial=1)),
        add(soa(ZONE, serial=2**32 - 1)),
    ]
    for change in ignored:
        result = world.update(ZONE, change, strict=False)
        assert (result.status, result.changed, result.serial) == (ZoneStatus.DONE, 0, 1), change
    assert world.records(ZONE) == before
    world.update(ZONE, add(named("alias.example.com.", CNAME, WWW)), strict=False)
    assert world.update(ZONE, add(txt("alias.example.com.", "t")), strict=False).changed == 0
    replaced = world.update(ZONE, add(named("alias.example.com.", CNAME, ZONE)), strict=False)
    assert replaced.changed == 2
    assert world.update(ZONE, add(soa(ZONE, serial=100)), strict=False).serial == 100


def test_a_new_soa_moves_the_serial_to_its_own_or_by_one(world: World) -> None:
    assert world.update(ZONE, add(soa(ZONE, serial=50))).serial == 50
    assert world.update(ZONE, add(soa(ZONE, serial=50, ttl=60))).serial == 51
    assert world.zone(ZONE).serial == 51


def test_changes_of_one_command_are_judged_by_what_they_come_to(world: World) -> None:
    swapped = world.update(ZONE, add(named(WWW, CNAME, ZONE)), delete_rrset(WWW, A))
    assert swapped.status is ZoneStatus.DONE
    both = world.update(ZONE, add(a(WWW, "192.0.2.1")), delete_rrset(WWW, CNAME))
    assert both.status is ZoneStatus.DONE


# --- rules ------------------------------------------------------------------------------------------

SRV_HEAD, MX_HEAD = bytes(6), bytes(2)
BROKEN = [
    ("cname-alone", [named(WWW, CNAME, ZONE)]),
    ("cname-at-apex", [named(ZONE, CNAME, WWW)]),
    ("one-cname", [named("c.example.com.", CNAME, WWW), named("c.example.com.", CNAME, ZONE)]),
    ("one-dname", [named("d.example.com.", DNAME, WWW), named("d.example.com.", DNAME, ZONE)]),
    ("below-dname", [named("b.example.com.", DNAME, "example.org.")]),
    ("below-dname", [named("d.example.com.", DNAME, "example.org."), a("x.y.d.example.com.", "192.0.2.1")]),
    ("below-dname", [named(ZONE, DNAME, "example.org.")]),
    ("dname-and-ns", [named("d.example.com.", DNAME, WWW), named("d.example.com.", NS, WWW)]),
    ("target-address", [named(WWW, MX, "192.0.2.1.", before=MX_HEAD)]),
    ("target-address", [named(WWW, MX, "192.0.2.1.example.com.", before=MX_HEAD)]),
    ("target-address", [named(WWW, SRV, "2001:db8::1.", before=SRV_HEAD)]),
    ("target-address", [named(WWW, NS, "192.0.2.1.")]),
    ("ttl", [a("t.example.com.", "192.0.2.1", ttl=59)]),
    ("ttl", [a("t.example.com.", "192.0.2.1", ttl=604_801)]),
    ("ttl", [a("t.example.com.", "192.0.2.1", ttl=2**31)]),
    ("out-of-zone", [a("www.notexample.com.", "192.0.2.1")]),
    ("out-of-zone", [a("com.", "192.0.2.1")]),
    ("soa", [soa(WWW)]),
    ("rdata", [ZoneRecord(n(WWW), A, 300, bytes(5))]),
    ("rdata", [ZoneRecord(n(WWW), TXT, 300, b"\x05four")]),
    ("rdata", [ZoneRecord(n(WWW), MX, 300, b"\0\0\xc0\x0c")]),
    ("rdata", [ZoneRecord(n(WWW), MX, 300, b"\0\0\1a\0" + bytes(10) + b"\xc0\x0c")]),
    ("type", [ZoneRecord(n(WWW), 255, 300, b"")]),
    ("type", [ZoneRecord(n(WWW), 41, 300, b"")]),
    ("rrset-size", [txt(WWW, f"{i:03}" + "x" * 250) for i in range(260)]),
]


@pytest.mark.parametrize(
    ("rule", "records"), BROKEN, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(BROKEN)]
)
def test_what_breaks_a_rule_is_refused_with_its_name_and_changes_nothing(
    world: World, rule: str, records: list[ZoneRecord]
) -> None:
    before = world.records(ZONE)
    fine = add(txt("fine.example.com.", "t"))
    result = world.update(ZONE, fine, *map(add, records))
    assert (result.status, result.rule) == (ZoneStatus.REFUSED, rule)
    assert result.reason
    assert result.at >= 0
    assert world.records(ZONE) == before
    assert not world.dns_changed
    assert world.zone(ZONE).serial == 1


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("soa", delete_rrset(ZONE, SOA)),
        ("ns", delete_rrset(ZONE, NS)),
        ("ns", remove(named(ZONE, NS, "ns1." + ZONE))),
    ],
)
def test_an_author_cannot_take_soa_or_the_last_ns_away(world: World, rule: str, change: Change) -> None:
    result = world.update(ZONE, change)
    assert (result.status, result.rule) == (ZoneStatus.REFUSED, rule)


IMPORT_RULES = [(rule, records) for rule, records in BROKEN if not (rule == "ttl" and records[0].ttl < 2**31)]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("rule", "records"), IMPORT_RULES)
def test_an_import_keeps_the_same_rules_across_its_chunks(
    rule: str, records: list[ZoneRecord], split: bool
) -> None:
    world = World(MemoryStore())
    everything = [*basics(ZONE), a(WWW, "192.0.2.1"), txt("a.b.example.com.", "x"), *records]
    chunks = [[record] for record in everything] if split else [everything]
    results: list[ZoneResult] = []
    for sequence, chunk in enumerate(chunks):
        results.append(world.do(ZoneStage(b"s" * 16, n(ZONE), sequence, tuple(chunk))))
        if results[-1].status is not ZoneStatus.DONE:
            break
    refused = results[-1]
    assert refused.status is ZoneStatus.REFUSED
    assert refused.rule == rule


def test_an_import_with_different_ttls_in_one_rrset_is_refused() -> None:
    world = World(MemoryStore())
    records = (*basics(ZONE), a(WWW, "192.0.2.1", ttl=60), a(WWW, "192.0.2.2", ttl=61))
    refused = world.do(ZoneStage(b"s" * 16, n(ZONE), 0, records))
    assert (refused.rule, refused.at) == ("rrset-ttl", 4)


def test_targets_that_only_look_like_addresses_are_names(world: World) -> None:
    fine = [
        named(WWW, MX, "1.2.3.4.in-addr.arpa.", before=MX_HEAD),
        named(WWW, MX, ".", before=MX_HEAD),  # RFC 7505
        named(WWW, SRV, ".", before=SRV_HEAD),  # RFC 2782
        named("x.example.com.", NS, "192.0.2.example.com."),
        named(WWW, MX, "256.0.2.1.", before=MX_HEAD),
    ]
    for record in fine:
        assert world.update(ZONE, add(record)).status is ZoneStatus.DONE
