"""Every transport of a real node over IPv4 and IPv6, and a cluster that gets its certificate by ACME."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tls"))

from clients import sign, texts
from cluster import Cluster, NodeProcess, https_settings, started, wait_until
from pebble import needs_pebble, running_pebble

FAMILIES = ["127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, dict[str, str]]]:
    base = tmp_path_factory.mktemp("encrypted")
    cluster = Cluster(base, 1)
    ports = https_settings(cluster.nodes[0])
    with started(cluster):
        yield cluster.nodes[0], ports


def verifying(node: NodeProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=node.data_dir / "tls" / "self-signed.pem")


@pytest.mark.parametrize("address", FAMILIES)
def test_every_transport_answers(encrypted: tuple[NodeProcess, dict[str, str]], address: str) -> None:
    node, ports = encrypted
    packet = sign("relay=https://relay.example./")
    context = verifying(node)
    host = f"[{address}]" if ":" in address else address
    url = f"https://{host}:{ports['port']}"

    put = urllib.request.Request(url + packet.path, data=packet.payload, method="PUT")
    with urllib.request.urlopen(put, context=context, timeout=5) as response:
        assert response.status == 204  # pkarr by HTTPS
    with urllib.request.urlopen(url + packet.path, context=context, timeout=5) as response:
        assert response.read() == packet.payload

    query = dns.message.make_query(packet.name(), "TXT")
    expected = list(packet.texts)
    where = {"where": address, "timeout": 5.0}
    assert texts(dns.query.udp(query, port=node.dns_port, **where)) == expected
    assert texts(dns.query.tcp(query, port=node.dns_port, **where)) == expected
    dot = dns.query.tls(
        query, port=int(ports["dot_port"]), ssl_context=context, server_hostname="localhost", **where
    )
    assert texts(dot) == expected
    asked = f"{url}/resolve?name={packet.name()}&type=TXT"
    with urllib.request.urlopen(asked, context=context, timeout=5) as response:
        assert [answer["data"] for answer in json.load(response)["Answer"]] == expected


@pytest.mark.skipif(shutil.which("kdig") is None, reason="kdig is not installed")
@pytest.mark.parametrize("address", FAMILIES)
def test_doq_answers(encrypted: tuple[NodeProcess, dict[str, str]], address: str) -> None:
    node, ports = encrypted
    packet = sign("relay=https://relay.example./")
    assert node.put(packet).status == 204
    ca_file = node.data_dir / "tls" / "self-signed.pem"
    command = [
        "kdig",
        f"@{address}",
        "-p",
        ports["doq_port"],
        f"+tls-ca={ca_file}",
        "+tls-hostname=localhost",
    ]
    command += ["+quic", "+short", packet.name(), "TXT"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert said.stdout.split("\n")[:-1] == list(packet.texts), said.stderr


@pytest.mark.skipif(shutil.which("kdig") is None, reason="kdig is not installed")
def test_zones_are_transferred_and_read_behind_a_barrier_on_every_transport(
    encrypted: tuple[NodeProcess, dict[str, str]],
) -> None:
    """RFC 9103 (transfers over TLS), RFC 9250 §5.3.3 (over QUIC); `consistent` means the same everywhere."""
    node, ports = encrypted
    zone = {
        "name": "example.com",
        "nameservers": ["ns1"],
        "settings": {"consistency": "consistent", "transfer_acl": ["127.0.0.0/8", "::1/128"]},
        "records": [{"name": "ns1", "type": "A", "ttl": 300, "data": ["192.0.2.53"]}],
    }
    created = node.request("POST", "/v1/zones", json.dumps(zone).encode())
    assert created.status == 201, created.body
    for port, ways, transfers in (
        (ports["dot_port"], ("+tls",), True),
        (ports["doq_port"], ("+quic",), True),
        (ports["port"], ("+https",), False),
    ):
        kdig = ["kdig", "@127.0.0.1", "-p", port, *ways, "+short"]
        said = subprocess.run([*kdig, "ns1.example.com", "A"], capture_output=True, text=True, timeout=20)
        assert said.stdout == "192.0.2.53\n", said
        said = subprocess.run([*kdig, "example.com", "AXFR"], capture_output=True, text=True, timeout=20)
        assert ("192.0.2.53" in said.stdout) == transfers, said


def shown(node: NodeProcess, port: str) -> bytes:
    """The certificate that a client is shown, in DER."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", int(port)), timeout=5))


@needs_pebble
def test_a_cluster_gets_one_certificate_by_acme(tmp_path: Path) -> None:
    """The leader orders it, whichever node is asked answers the challenge, and all nodes serve it."""
    cluster = Cluster(tmp_path, 3)
    asked = cluster.nodes[2]
    with running_pebble(tmp_path, asked.http_port) as pebble:
        ports = [
            https_settings(
                node,
                cert_mode="lets_encrypt",
                domains="localhost",
                acme_directory=pebble.url,
                acme_ca_file=str(pebble.ca_file),
            )
            for node in cluster
        ]
        with started(cluster):
            before = {shown(node, port["port"]) for node, port in zip(cluster, ports, strict=True)}
            assert len(before) == 3  # each of its own making, so that nothing has to wait

            def all_alike() -> bool:
                now = {
                    shown(node, port[kind])
                    for node, port in zip(cluster, ports, strict=True)
                    for kind in ("port", "dot_port")
                }
                return len(now) == 1 and not now & before

            wait_until(all_alike, "all nodes serve one certificate", 40.0)
            issued = shown(asked, ports[2]["port"])
            cluster.wait_same_state()
            for rows in asked.tables().values():
                assert not any(b"PRIVATE KEY" in value for value in rows.values())
            asked.stop()
            asked.start()
            asked.wait_ready()
            assert shown(asked, ports[2]["port"]) == issued
