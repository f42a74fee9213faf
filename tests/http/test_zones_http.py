"""Zones over HTTP: what authors do, and what they are told when it won't do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from http_fakes import Answer, Client, Line, within

from aspen.dns.tsig_keys import TsigKeys, encode_key, make_key, setting_name
from aspen.errors import OutcomeUnknown
from aspen.http import zones
from aspen.http.server import HttpServer
from aspen.http.zones import ZoneRoutes
from aspen.state.commands import Command, Result, encode_command
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.ports import Consistency, Freshness
from aspen.state.settings import LmdbSettings, SettingPut
from aspen.state.zone_commands import ZoneStage
from aspen.state.zones import LmdbZones

ZONE = "/v1/zones/example.com"
NEW = {
    "name": "example.com",
    "nameservers": ["ns1"],
    "records": [{"name": "ns1", "type": "A", "ttl": 300, "data": ["192.0.2.53"]}],
}


class OneMember:
    """A cluster of one that needs no consensus: what is proposed is applied."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.zones = LmdbZones(self.store)
        self.commands: list[Command] = []
        self.barriers: list[Consistency] = []
        self.unknown = 0
        """So many chunks of an import are applied though their outcome isn't told."""

    async def propose(self, command: Command) -> Result:
        self.commands.append(command)
        with self.store.write() as txn:
            self.machine.begin(txn)
            result = self.machine.apply(txn, len(self.commands), 1_000_000, encode_command(command))
            self.machine.end(txn)
        await asyncio.sleep(0)
        if self.unknown and isinstance(command, ZoneStage):
            self.unknown -= 1
            raise OutcomeUnknown("nobody knows")
        return result

    async def barrier(self, consistency: Consistency) -> None:
        self.barriers.append(consistency)

    def freshness(self) -> Freshness:
        return Freshness(len(self.commands), 1, 0)


@pytest.fixture
def member() -> OneMember:
    return OneMember()


@pytest.fixture
async def http(member: OneMember) -> AsyncIterator[Client]:
    server = HttpServer(listen=("127.0.0.1", 0))
    ZoneRoutes(member, member.zones, TsigKeys(LmdbSettings(member.store))).add_routes(server.admin)
    await server.start()
    client = Client(server.address)
    yield client
    await client.close()
    await server.close()
    for line in Line.opened:
        await line.close()
    Line.opened.clear()


async def send(http: Client, method: str, path: str, value: Any = None) -> Answer:
    import msgspec

    return await http.request(method, path, None if value is None else msgspec.json.encode(value))


async def change(http: Client, *changes: dict[str, Any]) -> Answer:
    return await send(http, "POST", ZONE + "/records", {"changes": list(changes)})


async def test_a_zone_is_created_shown_configured_listed_and_deleted(http: Client, member: OneMember) -> None:
    created = await send(http, "POST", "/v1/zones", NEW)
    assert created.status == 201
    assert created.json["name"] == "example.com."
    assert (created.json["serial"], created.json["records"]) == (1, 3)
    again = await send(http, "POST", "/v1/zones", NEW)
    assert (again.status, again.json["error"]) == (409, "zone_exists")
    shown = await http.get(ZONE)
    assert shown.status == 200
    assert shown.json["settings"]["enabled"] is True
    assert member.barriers == [Consistency.CONSISTENT]
    await http.get(ZONE + "?consistency=stale")
    await http.get(ZONE + "/records?consistency=leader")
    assert member.barriers == [Consistency.CONSISTENT, Consistency.LEADER]
    configured = await send(
        http, "PATCH", ZONE, {"settings": {"consistency": "leader", "transfer_acl": ["192.0.2.0/24"]}}
    )
    assert configured.json["settings"]["consistency"] == "leader"
    assert (await http.get(ZONE + "?consistency=stale")).json == configured.json
    await send(http, "POST", "/v1/zones", {**NEW, "name": "notexample.com."})
    listed = await http.get("/v1/zones?limit=1")
    assert [zone["name"] for zone in listed.json["zones"]] == ["example.com."]
    assert listed.json["more"] is True
    rest = await http.get("/v1/zones?after=example.com")
    assert [zone["name"] for zone in rest.json["zones"]] == ["notexample.com."]
    found = await http.get("/v1/zones?for=a.b.example.com")
    assert [zone["name"] for zone in found.json["zones"]] == ["example.com."]
    deleted = await http.request("DELETE", ZONE)
    assert (deleted.status, deleted.json["changed"]) == (200, 3)
    assert (await http.get(ZONE)).status == 404
    assert (await http.get("/v1/zones/notexample.com")).status == 200
    assert (await http.request("DELETE", ZONE)).json["error"] == "no_such_zone"


async def test_keys_that_a_zone_names_and_that_do_not_exist(http: Client, member: OneMember) -> None:
    key = make_key("There.example", "hmac-sha256", b"s" * 32)
    await member.propose(SettingPut(setting_name("there.example"), encode_key(key)))
    settings = {
        "transfer_keys": ["there.example", "absent"],
        "update_keys": ["absent"],
        "notify": ["192.0.2.1#there.example", "192.0.2.2#other"],
    }
    created = await send(http, "POST", "/v1/zones", {**NEW, "settings": settings})
    assert created.json["missing_keys"] == ["absent.", "other"]
    await member.propose(SettingPut(setting_name("absent"), encode_key(key)))
    assert (await http.get(ZONE)).json["missing_keys"] == ["other"]


async def test_records_are_set_added_deleted_and_listed(http: Client) -> None:
    await send(http, "POST", "/v1/zones", NEW)
    done = await change(
        http,
        {"op": "set", "name": "www", "type": "A", "data": ["192.0.2.1", "192.0.2.2"], "ttl": 300},
        {"op": "add", "name": "@", "type": "MX", "data": ["10 mail"]},
        {"op": "set", "name": "t.example.com.", "type": "TXT", "data": ['"one string" two']},
    )
    assert done.json == {"zone": "example.com.", "serial": 2, "changed": 4}
    listed = await http.get(ZONE + "/records")
    assert [(r["name"], r["type"], r["data"]) for r in listed.json["records"]][1:] == [
        ("example.com.", "SOA", ["ns1.example.com. hostmaster.example.com. 2 7200 900 1209600 300"]),
        ("example.com.", "MX", ["10 mail.example.com."]),
        ("ns1.example.com.", "A", ["192.0.2.53"]),
        ("t.example.com.", "TXT", ['"one string" "two"']),
        ("www.example.com.", "A", ["192.0.2.1", "192.0.2.2"]),
    ]
    assert listed.json["serial"] == 2
    one = await http.get(ZONE + "/records?name=www&type=a")
    assert one.json["records"] == [
        {"name": "www.example.com.", "type": "A", "ttl": 300, "data": ["192.0.2.1", "192.0.2.2"]}
    ]
    page = await http.get(ZONE + "/records?limit=2&after=ns1")
    assert ([r["name"] for r in page.json["records"]], page.json["more"]) == (
        ["t.example.com.", "www.example.com."],
        False,
    )
    assert (await http.get(ZONE + "/records?limit=2")).json["more"] is True
    await change(http, {"op": "delete", "name": "www", "type": "A", "data": ["192.0.2.1"]})
    await change(http, {"op": "delete", "name": "t"}, {"op": "delete", "name": "@", "type": "MX"})
    left = await http.get(ZONE + "/records")
    assert [(r["name"], r["type"]) for r in left.json["records"]] == [
        ("example.com.", "NS"),
        ("example.com.", "SOA"),
        ("ns1.example.com.", "A"),
        ("www.example.com.", "A"),
    ]
    assert (await change(http, {"op": "delete", "name": "none"})).json["changed"] == 0


A = {"op": "add", "name": "www", "type": "A", "data": ["192.0.2.1"]}


@pytest.mark.parametrize(
    ("changes", "rule", "says"),
    [
        ([A, {**A, "type": "CNAME", "data": ["ns1"]}], "cname-alone", "www.example.com. is an alias"),
        ([{**A, "name": "@", "type": "CNAME", "data": ["x"]}], "cname-at-apex", "`@ 3600 IN CNAME x`"),
        ([{**A, "ttl": 59}], "ttl", "60 to 604800"),
        ([{**A, "data": ["192.0.2.256"]}], "syntax", "`www 3600 IN A 192.0.2.256`"),
        ([{**A, "type": "MX", "data": ["10 192.0.2.1"]}], "target-address", "the address 192.0.2.1"),
        ([{**A, "name": "www.example.org."}], "out-of-zone", "www.example.org."),
        ([{**A, "name": "a" * 64}], "syntax", "63 octets"),
        ([{**A, "type": "TXT", "data": ["x" * 256]}], "syntax", "at most 255"),
        ([{**A, "type": "NOPE"}], "syntax", "unknown record type"),
        ([{**A, "data": []}], "syntax", "data"),
        ([{**A, "ttl": 300}, {**A, "ttl": 301, "data": ["192.0.2.2"]}], "rrset-ttl", "300 or 301"),
        ([{"op": "delete", "name": "@", "type": "NS"}], "ns", "no NS"),
        ([{"op": "delete", "name": "@", "data": ["x"]}], "syntax", "name it"),
        ([{**A, "type": "TYPE1", "data": ["\\# 3 aabbcc"]}], "rdata", "too short"),
    ],
)
async def test_what_breaks_a_rule_is_422_with_the_record_and_the_rule(
    http: Client, changes: list[dict[str, Any]], rule: str, says: str
) -> None:
    await send(http, "POST", "/v1/zones", NEW)
    refused = await change(http, {"op": "add", "name": "fine", "type": "A", "data": ["192.0.2.9"]}, *changes)
    assert (refused.status, refused.json["error"], refused.json["rule"]) == (422, "rule_broken", rule)
    assert says in refused.json["reason"]
    assert (await http.get(ZONE)).json["serial"] == 1


async def test_requests_that_make_no_sense_are_refused(http: Client) -> None:
    await send(http, "POST", "/v1/zones", NEW)
    many = [{**A, "data": [f"192.0.2.{i}"]} for i in range(101)]
    assert (await change(http, *many)).status == 413
    assert (await change(http)).status == 413
    assert (await change(http, {**A, "operation": 1})).json["error"] == "bad_json"
    assert (await http.request("POST", ZONE + "/records", b"nonsense")).json["error"] == "bad_json"
    assert (await http.get(ZONE + "/records?nme=x")).json["error"] == "bad_query"
    assert (await http.get(ZONE + "/records?limit=0")).status == 400
    assert (await http.get(ZONE + "/nothing")).status == 404
    assert (await http.get("/v1/zones/a..b")).json["rule"] == "name"
    wrong = await http.request("PUT", ZONE, b"")
    assert wrong.status == 405
    assert (await http.request("POST", ZONE, b"")).headers["allow"] == "GET, PATCH, DELETE, HEAD"
    for settings in ({"nope": 1}, {"enabled": "yes"}, {"transfer_acl": ["x"]}, {"notify": ["x:y"]},
                     {"default_ttl_s": 1}, {"consistency": "best"}, {"update_keys": ["a..b"]}):  # fmt: skip
        refused = await send(http, "PATCH", ZONE, {"settings": settings})
        assert (refused.status, refused.json["error"]) == (422, "rule_broken"), settings
    no_servers = await send(http, "POST", "/v1/zones", {"name": "x.", "nameservers": []})
    assert no_servers.json["rule"] == "ns"


FILE = b"""$TTL 300
@ SOA ns1 hostmaster 40 7200 900 1209600 300
@ NS ns1
ns1 A 192.0.2.53
www 30 A 192.0.2.1 ; a short TTL: imports may
"""


async def test_a_master_file_is_imported_and_exported(http: Client) -> None:
    done = await http.request("POST", ZONE + "/import?replace=false", FILE)
    assert (done.status, done.json) == (200, {"zone": "example.com.", "serial": 40, "changed": 4})
    exported = await http.get(ZONE + "/export")
    assert exported.headers["content-type"].startswith("text/dns")
    assert exported.body == (
        b"$ORIGIN example.com.\n"
        b"@\t300\tIN\tSOA\tns1.example.com. hostmaster.example.com. 40 7200 900 1209600 300\n"
        b"@\t300\tIN\tNS\tns1.example.com.\n"
        b"ns1\t300\tIN\tA\t192.0.2.53\n"
        b"www\t30\tIN\tA\t192.0.2.1\n"
    )
    assert (await http.request("POST", ZONE + "/import?replace=false", FILE)).status == 409
    replaced = await http.request("POST", ZONE + "/import", FILE + b"new A 192.0.2.2\n")
    assert (replaced.json["serial"], replaced.json["changed"]) == (41, 5)


@pytest.mark.parametrize(
    ("more", "line", "rule"),
    [
        (b"x A 192.0.2\n", 6, "syntax"),
        (b"\n$INCLUDE y\n", 7, "syntax"),
        (b"www CNAME ns1\n", 6, "cname-alone"),
        (b"x A 192.0.2.1\nx 7 A 192.0.2.2\n", 7, "rrset-ttl"),
        (b"y.example.org. A 192.0.2.1\n", 6, "out-of-zone"),
    ],
)
async def test_an_import_that_won_t_do_names_its_line_and_leaves_everything_as_it_was(
    http: Client, member: OneMember, more: bytes, line: int, rule: str
) -> None:
    await http.request("POST", ZONE + "/import", FILE)
    rest = b"".join(b"h%d A 192.0.2.1\n" % i for i in range(30_000))
    refused = await http.request("POST", ZONE + "/import", FILE + more + rest)
    assert (refused.status, refused.json["line"], refused.json["rule"]) == (422, line, rule)
    assert refused.json["reason"].startswith(f"line {line}: ")
    shown = await http.get(ZONE)
    assert (shown.json["serial"], shown.json["records"]) == (40, 4)
    with member.store.read() as txn:
        assert not [key for key, _ in txn.cursor(db=member.store.tables["zones"]) if key.startswith(b"s")]


async def test_chunks_whose_outcome_is_unknown_are_proposed_again(http: Client, member: OneMember) -> None:
    member.unknown = 3
    rest = b"".join(b"h%d A 192.0.2.1\n" % i for i in range(2_000))
    done = await http.request("POST", ZONE + "/import", FILE + rest)
    assert (done.status, done.json["changed"]) == (200, 2_004)


async def test_an_import_cut_short_changes_nothing(http: Client, member: OneMember) -> None:
    await http.request("POST", ZONE + "/import", FILE)
    line = await Line.open(http.address)
    rest = b"".join(b"h%d A 192.0.2.1\n" % i for i in range(20_000))
    host = f"Host: {http.address[0]}:{http.address[1]}"
    head = f"POST {ZONE}/import HTTP/1.1\r\n{host}\r\nContent-Length: 9999999\r\n\r\n"
    await line.send(head.encode() + FILE + rest)
    await within(
        30, lambda: any(isinstance(command, ZoneStage) and command.sequence for command in member.commands)
    )
    under_way = (await http.get(ZONE + "/import")).json["imports"]
    assert len(under_way) == 1
    assert under_way[0]["records"] > 500
    await line.close()
    shown = await http.get(ZONE)
    assert (shown.json["serial"], shown.json["records"]) == (40, 4)


async def test_names_of_any_octets_travel_in_the_path(http: Client) -> None:
    made = await send(http, "POST", "/v1/zones", {**NEW, "name": "0/25.2.0.192.in-addr.arpa."})
    assert made.status == 201
    assert (await http.get("/v1/zones/0%2F25.2.0.192.in-addr.arpa")).status == 200
    odd = await change(http, A)
    assert odd.status == 404
    refused = await http.get("/v1/zones/%ff%fe..x")
    assert refused.status == 422


async def test_all_of_it_is_in_the_openapi_document(http: Client) -> None:
    paths = (await http.get("/openapi.json")).json["paths"]
    shown = {path: set(item) & {"get", "post", "patch", "delete"} for path, item in paths.items()}
    assert {path: methods for path, methods in shown.items() if "zones" in path} == {
        "/v1/zones": {"get", "post"},
        "/v1/zones/{zone}": {"get", "patch", "delete"},
        "/v1/zones/{zone}/records": {"get", "post"},
        "/v1/zones/{zone}/import": {"get", "post"},
        "/v1/zones/{zone}/export": {"get"},
    }


async def test_an_export_that_fails_on_its_way_never_looks_whole(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await http.request("POST", ZONE + "/import", FILE)

    def fails(*_: object) -> Iterator[str]:
        yield from ["@ 300 IN A 192.0.2.1\n"] * 1_000
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(zones, "write_master_file", fails)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
        await http.get(ZONE + "/export")
    await http.close()
