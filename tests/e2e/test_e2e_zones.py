"""Zones over three real nodes: an import is whole or not there, whoever is asked and whoever dies."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest
from clients import Answer, sign, texts
from cluster import Cluster, NodeProcess
from processes import wait_until

from aspen.dns.master_file import read_master_file
from aspen.dns.name import name_from_text

NAMES = 6_000
TXT = 16
_NUMBERS = itertools.count(1)


def master_file(version: int) -> bytes:
    lines = ["$TTL 60", f"@ SOA ns1 hostmaster {version} 7200 900 1209600 60", "@ NS ns1", "ns1 A 192.0.2.53"]
    lines += [f'h{i} TXT "{version}"' for i in range(NAMES)]
    return "\n".join([*lines, ""]).encode()


def bring_in(node: NodeProcess, zone: str, version: int) -> Answer:
    return node.request("POST", f"/v1/zones/{zone}/import", master_file(version), timeout_s=60)


def versions_at(node: NodeProcess, zone: str) -> set[str]:
    """The versions that the zone's records are of, as one node has them at one moment."""
    answer = node.request("GET", f"/v1/zones/{zone}/export?consistency=stale", timeout_s=30)
    if answer.status == 404:
        return set()
    assert answer.status == 200, answer
    records = [record for _, record in read_master_file(answer.body, name_from_text(zone))]
    texts_there = [record.rdata[1:].decode() for record in records if record.rrtype == TXT]
    assert len(texts_there) == NAMES
    return set(texts_there)


@pytest.fixture
def zone(cluster: Cluster) -> Iterator[str]:
    """A name for a zone of this test's own; the zone is gone afterwards."""
    name = f"z{next(_NUMBERS)}.example"
    yield name
    cluster.restore()
    assert cluster.leader().request("DELETE", f"/v1/zones/{name}").status in (200, 404)


def test_records_set_at_one_node_are_answered_by_all(cluster: Cluster, zone: str) -> None:
    one, two, three = cluster
    made = one.request("POST", "/v1/zones", b'{"name": "%s", "nameservers": ["ns1"]}' % zone.encode())
    assert made.status == 201, made.body
    batch = b'{"changes": [{"op": "set", "name": "www", "type": "TXT", "data": ["%s"]}]}'
    for version, node in enumerate((one, two, three)):
        done = node.request("POST", f"/v1/zones/{zone}/records", batch % b"v%d" % version)
        assert (done.status, done.json["serial"]) == (200, 2 + version)
        for asked in cluster:
            for tcp in (False, True):
                wait_until(
                    lambda asked=asked, tcp=tcp, version=version: (
                        texts(asked.dig(f"www.{zone}", tcp=tcp)) == [f'"v{version}"']
                    ),
                    f"{asked} answers what {node} was told",
                )
    refused = two.request("POST", f"/v1/zones/{zone}/records", batch.replace(b"TXT", b"CNAME") % b"@")
    assert refused.status == 422
    cluster.wait_same_state()


def test_no_node_shows_half_of_an_import(cluster: Cluster, zone: str) -> None:
    one, two, three = cluster
    assert bring_in(one, zone, 1).status == 200
    cluster.wait_caught_up()
    ended = threading.Event()
    rng = random.Random(4)

    def look_on(node: NodeProcess) -> int:
        """Whole zones at one moment, and single names that must never go back."""
        newest, looks = 1, 0
        while not ended.is_set():
            seen = versions_at(node, zone)
            assert len(seen) == 1, f"{node} has versions {seen} at one moment"
            for _ in range(20):
                (text,) = texts(node.dig(f"h{rng.randrange(NAMES)}.{zone}"))
                version = int(text.strip('"'))
                assert version >= newest
                newest = version
            looks += 1
        return looks

    with ThreadPoolExecutor() as pool:
        watching = [pool.submit(look_on, node) for node in (two, three)]
        try:
            for version in (2, 3):
                assert bring_in(one, zone, version).json["serial"] == version
        finally:
            ended.set()
        assert all(each.result() >= 2 for each in watching)
    cluster.wait_caught_up()
    assert [versions_at(node, zone) for node in cluster] == [{"3"}] * 3


@pytest.mark.parametrize("who", ["the node that imports", "the leader"])
def test_a_kill_in_the_midst_of_an_import_leaves_the_old_zone_or_the_new(
    cluster: Cluster, zone: str, who: str
) -> None:
    assert bring_in(cluster.leader(), zone, 1).status == 200
    importer = cluster.followers()[0]
    victim = importer if who == "the node that imports" else cluster.leader()
    others = [node for node in cluster if node is not victim]

    def under_way() -> bool:
        answer = others[0].request("GET", f"/v1/zones/{zone}/import")
        return any(each["records"] > 1_000 for each in answer.json["imports"])

    with ThreadPoolExecutor() as pool:
        importing = pool.submit(bring_in, importer, zone, 2)
        wait_until(under_way, "half of it is staged")
        victim.kill()
        try:
            status = importing.result().status
        except (OSError, HTTPException):
            status = 0
    cluster.restore()
    cluster.wait_caught_up()
    seen = [versions_at(node, zone) for node in cluster]
    assert seen in ([{"1"}] * 3, [{"2"}] * 3)
    if who == "the leader":  # whoever takes over goes on with it
        assert status == 200
    if status == 200:
        assert seen == [{"2"}] * 3
    cluster.wait_same_state()


def test_a_zone_of_an_origins_name_gives_it_records_and_its_keys_stay(cluster: Cluster) -> None:
    one, two, three = cluster
    packet = sign("relay=https://relay.example./")
    assert one.put(packet).status == 204
    new = (
        b'{"name": "aspen.local", "nameservers": ["ns1"], "responsible": "author",'
        b' "records": [{"name": "www", "type": "TXT", "ttl": 60, "data": ["static"]}]}'
    )
    assert two.request("POST", "/v1/zones", new).status == 201

    def authored(node: NodeProcess, tcp: bool) -> bool:
        """Static records, and the zone's SOA in what is denied under a key."""
        www = texts(node.dig("www.aspen.local", tcp=tcp))
        denied = node.dig(f"none.{packet.z32}.aspen.local", tcp=tcp)
        return www == ['"static"'] and "author.aspen.local." in denied.authority[0].to_text()

    try:
        for node in cluster:
            for tcp in (False, True):
                wait_until(lambda node=node, tcp=tcp: authored(node, tcp), f"{node} has taken the zone up")
            assert node.resolves(packet)
    finally:
        assert three.request("DELETE", "/v1/zones/aspen.local").status == 200
    for node in cluster:
        wait_until(
            lambda node=node: "hostmaster.aspen.local." in node.dig("x.aspen.local").authority[0].to_text(),
            f"{node} has its own records for the origin again",
        )
        assert node.resolves(packet)
