"""Authored zones in the state machine: what commands do, and what readers then see."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zone_world import CNAME, NS, SOA, TXT, A, World, a, add, basics, n, named, remove, soa, txt

from aspen.dns.name import name_from_text
from aspen.dns.zone import MemoryZone, ZoneSettings, canonical_order
from aspen.dns.zone_rules import ZoneRecord
from aspen.limits import LMDB_KEY_BYTES, ZONE_CHANGES, ZONE_STAGE_MS
from aspen.state.checkpoint import hash_state
from aspen.state.memory_store import MemoryStore
from aspen.state.store import STATE_TABLES, Store
from aspen.state.zone_collection import ZoneCollection
from aspen.state.zone_commands import (
    Change,
    ChangeKind,
    ZoneAbandon,
    ZoneActivate,
    ZoneCollect,
    ZoneConfigure,
    ZoneCreate,
    ZoneDelete,
    ZoneStage,
    ZoneStatus,
    ZoneUpdate,
)
from aspen.state.zone_content import name_key, name_of_key
from aspen.state.zone_tables import is_newer, next_serial
from aspen.state.zones import LmdbZones

MAP_BYTES = 64 * 1024**2
ZONE = "example.com."


@pytest.fixture(params=["lmdb", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield World(MemoryStore())
        return
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    yield World(store)
    store.close()


# --- zones ----------------------------------------------------------------------------------------


def test_a_zone_is_created_with_its_records_and_found_by_the_longest_apex(world: World) -> None:
    created = world.create(ZONE, a("www.example.com.", "192.0.2.1"), serial=7)
    assert (created.status, created.serial, created.changed) == (ZoneStatus.DONE, 7, 4)
    assert world.dns_changed
    world.create("sub.example.com.")
    find = world.zones.find
    for name, apex in [
        ("www.example.com.", ZONE),
        (ZONE, ZONE),
        ("a.b.sub.example.com.", "sub.example.com."),
        ("xsub.example.com.", ZONE),
    ]:
        found = find(n(name))
        assert found is not None
        assert found.apex == n(apex)
    assert find(n("notexample.com.")) is None
    assert find(n("com.")) is None
    assert find(b"\0") is None
    assert world.create(ZONE).status is ZoneStatus.EXISTS
    assert world.zone(ZONE).numbers().records == 4


def test_a_node_says_what_is_at_a_name_and_what_only_lies_above_one(world: World) -> None:
    world.create(ZONE, a("a.b.example.com.", "192.0.2.1"), a("ab.example.com.", "192.0.2.2"))
    zone = world.zone(ZONE)
    node = zone.node(n("a.b.example.com."))
    assert node is not None
    assert node[A].rdatas == (bytes((192, 0, 2, 1)),)
    assert node[A].ttl == 300
    assert zone.node(n("b.example.com.")) == {}
    for absent in ("c.example.com.", "x.a.b.example.com.", "a.example.com.", "example.org.", "com."):
        assert zone.node(n(absent)) is None
    apex = zone.node(n(ZONE))
    assert apex is not None
    assert set(apex) == {SOA, NS}
    assert zone.serial == 1


def test_deleting_a_zone_touches_no_other(world: World) -> None:
    others = ["notexample.com.", "sub.example.com.", "com.", "example.com.au.", "xexample.com."]
    for apex in [ZONE, *others]:
        world.create(apex, txt("www." + apex, apex))
    before = {apex: world.records(apex) for apex in others}
    # A label whose octets end like the zone's name on the wire.
    world.create("\\007example.com.", serial=3)
    deleted = world.do(ZoneDelete(n(ZONE)))
    assert deleted.status is ZoneStatus.DONE
    assert world.dns_changed
    while world.do(ZoneCollect()).more:
        pass
    assert world.zones.get(n(ZONE)) is None
    found = world.zones.find(n("www.example.com."))
    assert found is not None
    assert found.apex == n("com.")
    assert {apex: world.records(apex) for apex in others} == before
    assert world.zone("\\007example.com.").serial == 3
    assert world.do(ZoneDelete(n(ZONE))).status is ZoneStatus.NO_ZONE
    assert world.create(ZONE, serial=1).status is ZoneStatus.DONE


def test_a_disabled_zone_is_not_found_but_can_be_configured(world: World) -> None:
    world.create(ZONE)
    off = ZoneSettings(enabled=False, transfer_acl=("192.0.2.0/24",), notify=("192.0.2.1:53",))
    assert world.do(ZoneConfigure(n(ZONE), off)).status is ZoneStatus.DONE
    assert world.dns_changed
    assert world.zones.find(n("www.example.com.")) is None
    assert world.zone(ZONE).settings == off
    world.do(ZoneConfigure(n(ZONE), off))
    assert not world.dns_changed
    assert world.do(ZoneConfigure(n("none."), off)).status is ZoneStatus.NO_ZONE


def test_a_reader_sees_one_moment(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    world = World(store)
    world.create(ZONE, a("www.example.com.", "192.0.2.1"))
    before = world.zone(ZONE)
    world.bring_in(ZONE, *basics(ZONE), a("new.example.com.", "192.0.2.2"))
    while world.do(ZoneCollect()).more:
        pass
    assert before.serial == 1
    assert before.node(n("www.example.com."))
    assert before.node(n("new.example.com.")) is None
    after = world.zone(ZONE)
    assert after.serial == 2
    assert after.node(n("new.example.com."))
    assert after.node(n("www.example.com.")) is None
    del before, after
    store.close()


def test_the_index_is_read_again_only_when_a_zone_changes(tmp_path: Path) -> None:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    world = World(store)
    world.create(ZONE)
    generation = 1
    zones = LmdbZones(store, lambda: generation)
    assert zones.find(n(ZONE)) is not None
    index = zones._index
    world.update(ZONE, add(a("www.example.com.", "192.0.2.1")))
    generation += 1
    found = zones.find(n(ZONE))
    assert found is not None
    assert found.serial == 2
    assert zones._index is index
    world.create("example.org.")
    assert zones.find(n("example.org.")) is None  # the word has not moved yet
    generation += 1
    assert zones.find(n("example.org.")) is not None
    del found
    store.close()


# --- imports --------------------------------------------------------------------------------------


def test_an_import_is_seen_whole_or_not_at_all(world: World) -> None:
    world.create(ZONE, a("old.example.com.", "192.0.2.1"), serial=10)
    chunks = [basics(ZONE, 5), [a(f"h{i}.example.com.", "192.0.2.2") for i in range(50)]]
    stage = b"s" * 16
    before = world.records(ZONE)
    for result in world.stage(stage, ZONE, chunks):
        assert result.status is ZoneStatus.DONE
        assert not world.dns_changed
        assert world.records(ZONE) == before
    done = world.do(ZoneActivate(stage, 2))
    assert (done.status, done.serial, done.changed) == (ZoneStatus.DONE, 11, 53)
    assert world.dns_changed
    assert len(world.records(ZONE)) == 52
    assert world.zone(ZONE).serial == 11
    assert world.do(ZoneActivate(stage, 2)).status is ZoneStatus.NO_STAGE


@pytest.mark.parametrize(("has", "given_", "gets"), [(5, 9, 9), (9, 5, 10), (5, 5, 6), (2**32 - 1, 3, 3)])
def test_an_imports_serial_is_the_given_one_if_that_is_newer(
    world: World, has: int, given_: int, gets: int
) -> None:
    world.create(ZONE, serial=has)
    assert world.bring_in(ZONE, *basics(ZONE, given_)).serial == gets
    assert world.zone(ZONE).serial == gets


def test_a_chunk_that_comes_twice_counts_once_and_one_that_is_missing_is_noticed(world: World) -> None:
    stage = b"s" * 16
    first, second = tuple(basics(ZONE)), (a("x.example.com.", "192.0.2.1"),)
    assert world.do(ZoneStage(stage, n(ZONE), 1, second)).status is ZoneStatus.NO_STAGE
    for _ in range(2):
        assert world.do(ZoneStage(stage, n(ZONE), 0, first)).changed == 3
    assert world.do(ZoneStage(stage, n(ZONE), 2, second)).status is ZoneStatus.NO_STAGE
    assert world.do(ZoneActivate(stage, 2)).status is ZoneStatus.NO_STAGE
    assert world.do(ZoneStage(stage, n(ZONE), 1, second)).changed == 4
    assert world.do(ZoneActivate(stage, 2)).status is ZoneStatus.DONE


def test_what_is_out_of_use_goes_in_batches_and_abandoned_imports_with_it(world: World) -> None:
    world.create(ZONE, *(a(f"h{i}.example.com.", "192.0.2.2") for i in range(30)))
    world.stage(b"1" * 16, "example.org.", [basics("example.org.")])
    world.stage(b"2" * 16, "example.net.", [basics("example.net.")])
    assert world.do(ZoneAbandon(b"2" * 16)).status is ZoneStatus.DONE
    world.do(ZoneDelete(n(ZONE)))
    assert world.zones.has_garbage(0)
    turns = 0
    while world.do(ZoneCollect(10)).more:
        turns += 1
    assert turns == 3
    with world.store.read() as txn:
        left = [key for key, _ in txn.cursor(db=world.store.tables["rrsets"])]
    assert len(left) == 2  # names of the import that is still under way
    assert not world.zones.has_garbage(0)
    assert world.zones.has_garbage(world.time_ms + 1)
    world.time_ms += ZONE_STAGE_MS + 1
    world.do(ZoneCollect())
    for table in ("rrsets", "zones", "zone_changes"):
        with world.store.read() as txn:
            left = [key for key, _ in txn.cursor(db=world.store.tables[table]) if not key.startswith(b"v")]
        assert left == []
    assert world.do(ZoneActivate(b"1" * 16, 1)).status is ZoneStatus.NO_STAGE


def test_an_import_without_soa_or_ns_or_into_a_zone_that_must_not_exist_changes_nothing(world: World) -> None:
    world.create(ZONE)
    before = world.records(ZONE)
    world.stage(b"1" * 16, ZONE, [[a("x.example.com.", "192.0.2.1")]])
    refused = world.do(ZoneActivate(b"1" * 16, 1))
    assert (refused.status, refused.rule) == (ZoneStatus.REFUSED, "soa")
    world.stage(b"2" * 16, ZONE, [basics(ZONE)])
    assert world.do(ZoneActivate(b"2" * 16, 1, replace=False)).status is ZoneStatus.EXISTS
    assert world.records(ZONE) == before
    assert world.zone(ZONE).serial == 1


# --- serials and differences ----------------------------------------------------------------------


def test_serials_count_as_rfc_1982_says() -> None:
    assert next_serial(2**32 - 1) == 1
    assert is_newer(1, 2**32 - 1)
    assert is_newer(2**31, 1)
    assert not is_newer(2**31 + 1, 1)
    assert not is_newer(7, 7)


def test_the_serial_moves_with_every_change_and_with_nothing_else(world: World) -> None:
    world.create(ZONE, serial=2**32 - 1)
    www = a("www.example.com.", "192.0.2.1")
    assert world.update(ZONE, add(www)).serial == 1
    again = world.update(ZONE, add(www))
    assert (again.serial, again.changed) == (1, 0)
    assert not world.dns_changed
    assert world.update(ZONE, remove(a("none.example.com.", "192.0.2.1"))).changed == 0
    assert world.update(ZONE, add(www), remove(www), add(www)).serial == 1
    gone = world.update(ZONE, remove(www))
    assert (gone.serial, gone.changed) == (2, 1)
    node = world.zone(ZONE).node(n(ZONE))
    assert node is not None
    assert node[SOA].rdatas[0][-20:-16] == (2).to_bytes(4, "big")


def test_differences_lead_from_any_serial_that_is_kept_to_the_current_one(world: World) -> None:
    world.create(ZONE)
    for i in range(5):
        world.update(
            ZONE, add(a(f"h{i}.example.com.", "192.0.2.1")), add(txt("t.example.com.", str(i), 60 + i))
        )
    zone = world.zone(ZONE)
    steps = zone.differences(3)
    assert steps is not None
    assert [(d.from_serial, d.to_serial) for d in steps] == [(3, 4), (4, 5), (5, 6)]
    first = steps[0]
    assert [r.rrtype for r in first.removed] == [SOA, TXT, TXT]
    assert first.removed[0].rdata != first.added[0].rdata
    assert zone.differences(6) == []
    assert zone.differences(99) is None
    state = {r for step in zone.differences(1) or [] for r in step.added} - {
        r for step in zone.differences(1) or [] for r in step.removed
    }
    assert {tuple(r) for r in state if r.rrtype != SOA} <= world.records(ZONE)


def test_an_import_of_a_small_zone_is_a_difference_too_and_old_ones_go(world: World) -> None:
    world.create(ZONE, a("www.example.com.", "192.0.2.1"))
    world.bring_in(ZONE, *basics(ZONE), a("www.example.com.", "192.0.2.2"))
    (step,) = world.zone(ZONE).differences(1) or []
    assert [r for r in step.removed if r.rrtype == A] == [a("www.example.com.", "192.0.2.1")]
    assert [r for r in step.added if r.rrtype == A] == [a("www.example.com.", "192.0.2.2")]
    world.do_all(
        ZoneUpdate(n(ZONE), (), (add(txt("t.example.com.", str(i % 2), 60 + i)),))
        for i in range(ZONE_CHANGES + 1)
    )
    assert world.zone(ZONE).differences(2) is None
    assert len(world.zone(ZONE).differences(3) or []) == ZONE_CHANGES


# --- all of it -----------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b", "c", "*", "\\000", "\\001", "a\\001", "a\\000b", "\\.x"])
OWNERS = st.lists(LABELS, max_size=3).map(lambda labels: "".join(f"{label}." for label in labels) + ZONE)
RECORDS = st.one_of(
    st.builds(a, OWNERS, st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.sampled_from([60, 300])),
    st.builds(txt, OWNERS, st.sampled_from(["x", "y"]), st.sampled_from([60, 300])),
    st.builds(named, OWNERS, st.sampled_from([CNAME, 39, NS]), OWNERS),
    st.builds(soa, st.just(ZONE), st.integers(0, 2**32 - 1)),
)
CHANGES = st.one_of(
    RECORDS.map(add),
    RECORDS.map(remove),
    RECORDS.map(lambda r: Change(ChangeKind.DELETE_RRSET, r.owner, r.rrtype)),
    OWNERS.map(lambda owner: Change(ChangeKind.DELETE_NAME, n(owner))),
)
COMMANDS = st.one_of(
    st.builds(
        ZoneUpdate, st.just(n(ZONE)), st.just(()), st.lists(CHANGES, max_size=4).map(tuple), st.booleans()
    ),
    st.builds(
        ZoneStage,
        st.just(b"s" * 16),
        st.just(n(ZONE)),
        st.integers(0, 1),
        st.lists(RECORDS, max_size=3).map(lambda extra: (*basics(ZONE), *extra)),
    ),
    st.builds(ZoneActivate, st.just(b"s" * 16), st.integers(1, 2)),
    st.builds(ZoneDelete, st.just(n(ZONE))),
    st.builds(ZoneCreate, st.just(n(ZONE)), st.just(ZoneSettings()), st.just(tuple(basics(ZONE)))),
    st.builds(ZoneCollect, st.integers(1, 3)),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(COMMANDS, max_size=20))
def test_members_agree_and_every_zone_keeps_the_rules(
    tmp_path_factory: pytest.TempPathFactory, commands: list[object]
) -> None:
    """Whatever comes: both stores hold the same bytes, numbers tell what is there, and the differences
    lead from one state to the next."""
    store = Store.open(tmp_path_factory.mktemp("zones"), map_bytes=MAP_BYTES)
    one, other = World(store), World(MemoryStore())
    one.create(ZONE)
    other.create(ZONE)
    for command in commands:
        zone = one.zones.get(n(ZONE))
        before = None if zone is None else (zone.zone_id, zone.serial, one.records(ZONE))
        del zone
        result = one.do(command)  # type: ignore[arg-type]
        assert result == other.do(command)  # type: ignore[arg-type]
        zone = one.zones.get(n(ZONE))
        if zone is None:
            continue
        _check_zone(one, before)
        del zone
    with one.store.read() as mine, other.store.read() as theirs:
        digests = [
            hash_state(txn, {name: world.store.tables[name] for name in STATE_TABLES})
            for txn, world in ((mine, one), (theirs, other))
        ]
    assert digests[0] == digests[1]
    store.close()


def _check_zone(world: World, before: tuple[int, int, set[tuple[bytes, int, int, bytes]]] | None) -> None:
    zone = world.zone(ZONE)
    walked = [(owner, node) for owner, node in zone.walk()]
    owners = [owner for owner, _ in walked]
    assert owners == sorted(owners, key=canonical_order)
    assert owners[0] == n(ZONE)
    records = [
        (owner, rrtype, rrset.ttl, rdata)
        for owner, node in walked
        for rrtype, rrset in node.items()
        for rdata in rrset.rdatas
    ]
    assert zone.numbers().records == len(records)
    memory = MemoryZone(n(ZONE), records)
    assert memory.serial == zone.serial
    for owner in {*owners, *(owner[1 + owner[0] :] for owner in owners), n("none.example.com.")}:
        assert zone.node(owner) == (memory.node(owner) if owner.endswith(n(ZONE)) else None)
    dnames = [owner for owner, node in walked if 39 in node]
    for owner, node in walked:
        assert CNAME not in node or set(node) == {CNAME}
        assert not any(owner != dname and owner.endswith(dname) for dname in dnames)
    if before is not None and before[0] == zone.zone_id and before[1] != zone.serial:
        steps = zone.differences(before[1])
        assert steps
        state = before[2]
        for step in steps:
            state = (state - {tuple(r) for r in step.removed}) | {tuple(r) for r in step.added}
        assert {r for r in state if r[1] != SOA} == world.records(ZONE)


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=8))
def test_keys_of_names_keep_canonical_order_and_turn_back(labels: list[bytes]) -> None:
    relative = b"".join(bytes((len(label),)) + label for label in labels)[:250]
    if sum(1 + len(label) for label in labels) > 250:
        return
    assert name_of_key(name_key(relative)) == relative
    assert name_key(relative) < name_key(b"\1\0" + relative)
    shorter = relative[1 + relative[0] :] if relative else relative
    assert (name_key(shorter) < name_key(relative)) == (shorter != relative)
    order = [canonical_order(name + b"\0") for name in (relative, shorter)]
    assert (name_key(relative) > name_key(shorter)) == (order[0] > order[1])


def test_the_longest_name_of_the_worst_octets_fits_a_key() -> None:
    label = b"\x3f" + bytes(63)
    name = label * 3 + b"\x3d" + bytes(61)
    assert len(name) == 254
    assert len(name_key(name)) + 8 <= LMDB_KEY_BYTES


def test_many_zones_have_their_own_records(world: World) -> None:
    apexes = [f"{left}{right}." for left, right in itertools.product("abc", "abc")]
    for apex in apexes:
        world.create(apex, a("www." + apex, "192.0.2.1"))
    assert [s.apex for s in world.zones.summaries()] == [n(apex) for apex in sorted(apexes)]
    assert [s.apex for s in world.zones.summaries(n("ab."), 2)] == [n("ac."), n("ba.")]
    assert world.zones.apexes() == [n(apex) for apex in sorted(apexes)]


def test_an_index_that_follows_is_the_index_that_is_read_anew(world: World) -> None:
    rng = random.Random(5)
    follows = LmdbZones(world.store)
    apexes = [f"z{i}.example." for i in range(6)]
    for step in range(60):
        apex = rng.choice(apexes)
        if world.zones.get(n(apex)) is None:
            world.create(apex)
        elif rng.random() < 0.5:
            world.do(ZoneDelete(n(apex)))
        else:
            world.do(ZoneConfigure(n(apex), ZoneSettings(enabled=rng.random() < 0.5, default_ttl_s=step)))
        if rng.random() < 0.4:
            anew = LmdbZones(world.store)
            assert follows.apexes() == anew.apexes()
            for name in apexes:
                one, other = follows.find(n("www." + name)), anew.find(n("www." + name))
                assert (one is None) == (other is None)
                assert one is None or other is None or one.settings == other.settings
    world.do_all(
        ZoneConfigure(n(apex), ZoneSettings(default_ttl_s=i)) for i in range(ZONE_CHANGES) for apex in apexes
    )
    assert follows.apexes() == LmdbZones(world.store).apexes()


def test_names_that_are_no_names_are_refused(world: World) -> None:
    for apex in (b"", b"\x03com", b"\x40" + b"a" * 64 + b"\0", b"\x03COM\0", b"\xc0\x0c"):
        result = world.do(ZoneCreate(apex, ZoneSettings(), ()))
        assert (result.status, result.rule) == (ZoneStatus.REFUSED, "name")
    world.create(ZONE)
    for owner in (b"\x03www\x07example\x03com\0x", name_from_text("WWW.example.com."), b"\x3fw"):
        change = Change(ChangeKind.ADD, owner, A, 300, bytes(4))
        assert world.update(ZONE, change).status is ZoneStatus.REFUSED
        assert world.do(ZoneStage(b"9" * 16, n(ZONE), 0, (ZoneRecord(owner, A, 300, bytes(4)),))).rule in (
            "name",
            "out-of-zone",
        )


async def test_the_leaders_duty_collects_batch_by_batch_and_only_what_is_due(world: World) -> None:
    class Direct:
        async def propose(self, command: ZoneCollect) -> object:
            return world.do(command)

    duty = ZoneCollection(Direct(), world.zones)  # type: ignore[arg-type]
    index = world.index
    assert not await duty.run(world.time_ms, 0)
    assert world.index == index  # nothing to do: nothing proposed
    world.create(ZONE, *(txt(f"t{i}.example.com.", "x") for i in range(20)))
    world.do(ZoneDelete(n(ZONE)))
    world.stage(b"1" * 16, "example.org.", [basics("example.org.")])
    assert not await duty.run(world.time_ms, 0)  # all of it fits into one batch
    assert not world.zones.has_garbage(0)
    index = world.index
    world.time_ms += ZONE_STAGE_MS + 1
    await duty.run(world.time_ms, 0)
    assert world.index == index + 1
    assert world.zones.imports(n("example.org.")) == []
