"""What `ZoneStore` promises, held to by every backend alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from backends import Backend

from aspen.api import (
    InitRequest,
    NewZone,
    RaftControlClient,
    RecordChange,
    RecordSet,
    ZoneClient,
    ZoneStore,
)
from aspen.errors import ZoneError
from aspen.state.ports import Consistency

NEW = NewZone("example.com", ("ns1",), records=(RecordSet("ns1", "A", 300, ("192.0.2.53",)),))
FILE = b"""$TTL 300
@ SOA ns1 hostmaster 40 7200 900 1209600 300
@ NS ns1
ns1 A 192.0.2.53
www 30 A 192.0.2.1
"""


async def founded(backend: Backend, count: int) -> list[Any]:
    nodes = await backend.start(count)
    await RaftControlClient(nodes[0]).init(InitRequest([backend.named(node) for node in nodes]))
    return nodes


async def one(backend: Backend) -> ZoneStore:
    (node,) = await founded(backend, 1)
    return ZoneClient(node)


async def test_what_is_written_through_one_member_is_read_through_all(backend: Backend) -> None:
    stores = [ZoneClient(node) for node in await founded(backend, 3)]
    made = await stores[0].create(NEW)
    assert (made.serial, made.changed) == (1, 3)
    changed = await stores[1].change(
        "example.com.",
        [RecordChange("set", "www", "A", ("192.0.2.1",), 300), RecordChange("add", "@", "MX", ("10 www",))],
    )
    assert (changed.serial, changed.changed) == (2, 2)
    for store in stores:
        assert await store.records("example.com", "www") == [
            RecordSet("www.example.com.", "A", 300, ("192.0.2.1",))
        ]
        assert [summary.serial for summary in await store.list_zones()] == [2]
    settings = await stores[2].configure("example.com", consistency="leader", update_keys=("Key.",))
    assert (settings.consistency, settings.update_keys, settings.enabled) == ("leader", ("key.",), True)
    assert [s.settings for s in await stores[0].list_zones()] == [settings]
    await stores[0].delete("example.com")
    with pytest.raises(ZoneError.NotFound):
        await stores[1].records("example.com")


async def test_refusals_say_what_and_why_and_change_nothing(backend: Backend) -> None:
    store = await one(backend)
    await store.create(NEW)
    with pytest.raises(ZoneError.Exists):
        await store.create(NEW)
    with pytest.raises(ZoneError.RuleBroken) as caught:
        await store.change("example.com", [RecordChange("add", "ns1", "CNAME", ("www",))])
    assert caught.value.rule == "cname-alone"
    assert caught.value.record == "ns1.example.com. 3600 IN CNAME www.example.com."
    with pytest.raises(ZoneError.RuleBroken, match="`www 3600 IN A nonsense`"):
        await store.change("example.com", [RecordChange("add", "www", "A", ("nonsense",))])
    with pytest.raises(ZoneError.RuleBroken, match="not a setting"):
        await store.configure("example.com", nonsense=True)
    with pytest.raises(ZoneError.RuleBroken):
        await store.records("example.com", rrtype="NOPE")
    with pytest.raises(ZoneError.Limit):
        await store.change("example.com", [])
    for attempt in (
        store.delete("example.org"),
        store.configure("example.org"),
        store.export_zone("example.org"),
    ):
        with pytest.raises(ZoneError.NotFound):
            await attempt
    assert [summary.serial for summary in await store.list_zones(Consistency.STALE)] == [1]


async def test_master_files_go_in_and_come_out(backend: Backend) -> None:
    store = await one(backend)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(FILE), 7):
            yield FILE[start : start + 7]

    done = await store.import_zone("example.com", pieces())
    assert (done.serial, done.changed) == (40, 4)
    text = await store.export_zone("example.com")
    assert (await store.import_zone("example.com", text.encode())).serial == 41
    assert await store.export_zone("example.com") == text.replace(" 40 7200", " 41 7200")
    with pytest.raises(ZoneError.Exists):
        await store.import_zone("example.com", FILE, replace=False)
    with pytest.raises(ZoneError.RuleBroken) as caught:
        await store.import_zone("example.com", FILE + b"www CNAME ns1\n")
    assert (caught.value.line, caught.value.rule) == (6, "cname-alone")
    with pytest.raises(ZoneError.RuleBroken) as caught:
        await store.import_zone("example.com", b"$INCLUDE x\n")
    assert (caught.value.line, caught.value.rule) == (1, "syntax")
    assert len(await store.records("example.com")) == 4
