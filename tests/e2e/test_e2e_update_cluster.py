"""Dynamic updates in a cluster: sent to a follower by nsupdate, they are atomic and on every node."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import dns.rcode
import pytest
from clients import HOST
from cluster import Cluster, NodeProcess
from processes import wait_until
from secondaries import KEY_ARGUMENT, contents_at

ZONE = "updates.example."
SECRET = KEY_ARGUMENT.rpartition(":")[2]

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("nsupdate", "dig"))), reason="nsupdate and dig are not installed"
)


@pytest.fixture
def zone(cluster: Cluster) -> Cluster:
    """The three nodes, with a zone that a key may update."""
    node = cluster.leader()
    key = {"algorithm": "hmac-sha256", "secret": SECRET}
    node.request("PUT", "/v1/tsig-keys/transfer.example?replace=true", json.dumps(key).encode())
    node.request("DELETE", f"/v1/zones/{ZONE}")
    new = {
        "name": ZONE,
        "nameservers": ["ns1"],
        "records": [{"name": "ns1", "type": "A", "ttl": 300, "data": ["192.0.2.1"]}],
        "settings": {"update_keys": ["transfer.example"], "transfer_acl": ["127.0.0.0/8"]},
    }
    created = node.request("POST", "/v1/zones", json.dumps(new).encode())
    assert created.status == 201, created.body
    cluster.wait_caught_up()
    return cluster


def nsupdate(node: NodeProcess, commands: str, *options: str) -> subprocess.CompletedProcess[str]:
    text = f"server {HOST} {node.dns_port}\nzone {ZONE}\nttl 60\n{commands}\nsend\n"
    command = ["nsupdate", "-y", KEY_ARGUMENT, *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("options", [(), ("-v",)], ids=["udp", "tcp"])
def test_an_update_sent_to_a_follower_is_made_on_every_node(zone: Cluster, options: tuple[str, ...]) -> None:
    follower = zone.followers()[0]
    done = nsupdate(follower, f"prereq nxdomain www.{ZONE}\nadd www.{ZONE} A 192.0.2.7", *options)
    assert done.returncode == 0, done.stderr
    # The node that took it answers with it at once; the others as soon as they have applied it.
    assert [rdata.to_text() for rdata in follower.dig(f"www.{ZONE}", "A").answer[0]] == ["192.0.2.7"]
    again = nsupdate(follower, f"prereq nxdomain www.{ZONE}\nadd other.{ZONE} A 192.0.2.8", *options)
    assert "YXDOMAIN" in again.stderr
    zone.wait_caught_up()
    wholes = [contents_at(node.dns_port, zone=ZONE) for node in zone]
    assert wholes[0] == wholes[1] == wholes[2]
    assert f"www.{ZONE} 60 in a 192.0.2.7" in wholes[0]
    assert all(node.dig(f"other.{ZONE}", "A").rcode() == dns.rcode.NXDOMAIN for node in zone)


def test_of_many_who_want_a_name_on_all_nodes_one_gets_it(zone: Cluster) -> None:
    """Prerequisite and change are one command of the log: no two see the name free."""
    nodes = list(zone)

    def claim(who: int) -> bool:
        commands = f"prereq nxdomain lock.{ZONE}\nadd lock.{ZONE} TXT owner-{who}"
        done = nsupdate(nodes[who % 3], commands, *(("-v",) if who % 2 else ()))
        assert done.returncode == 0 or "YXDOMAIN" in done.stderr, done.stderr
        return done.returncode == 0

    with ThreadPoolExecutor(6) as pool:
        won = [who for who, got in enumerate(pool.map(claim, range(12))) if got]
    assert len(won) == 1
    zone.wait_caught_up()
    for node in nodes:
        assert [rdata.to_text() for rdata in node.dig(f"lock.{ZONE}").answer[0]] == [f'"owner-{won[0]}"']


def test_without_a_quorum_an_update_is_servfail_and_never_noerror(zone: Cluster) -> None:
    leader, *others = zone.leader(), *zone.followers()
    for node in others:
        node.kill()
    done = nsupdate(leader, f"add lonely.{ZONE} A 192.0.2.9", "-v", "-t", "15")
    assert done.returncode == 2
    assert "SERVFAIL" in done.stderr, done.stderr
    assert leader.dig(f"lonely.{ZONE}", "A").rcode() == dns.rcode.NXDOMAIN, (
        "nothing is shown that isn't committed"
    )
    zone.restore()
    # Its fate was unknown: either is right now, but the same on all nodes.
    wait_until(lambda: len({node.dig(f"lonely.{ZONE}", "A").rcode() for node in zone}) == 1, "all agree")
