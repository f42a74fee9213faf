"""A relay in the lab, NATs to be behind, and what nodes there say and hold."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from subprocess import Popen

from lab import Host, HostNode, Lab, Network
from processes import wait_until

RELAY_PORT = 3340
RELAY_ADDRESS = "203.0.113.10"
RELAYED = {
    "ASPEN_IROH_RELAY_URL": f"http://{RELAY_ADDRESS}:{RELAY_PORT}",
    "ASPEN_IROH_ENABLE_MDNS": "false",
}
"""Settings of a node that knows the relay and nothing else."""


def start_relay(host: Host, cookie: str, folder: Path) -> Popen[bytes]:
    cookie_file = folder / "cookie"
    if not cookie_file.exists():
        cookie_file.touch(0o600)
        cookie_file.write_text(cookie)
    relay = host.start(
        *(sys.executable, "-m", "aspen.cli.main", "relay", "--listen", f"0.0.0.0:{RELAY_PORT}"),
        *("--cookie-file", str(cookie_file), "--log-format", "json"),
        log=folder / "relay.log",
    )

    def listens() -> bool:
        assert relay.poll() is None, (folder / "relay.log").read_text()
        with host.open_socket() as probe:
            return probe.connect_ex((host.address, RELAY_PORT)) == 0

    wait_until(listens, "the relay listens", 30.0)
    return relay


def behind_nat(lab: Lab, number: int, internet: Network, *, random_ports: bool = True) -> Host:
    """A host in a private network of its own; all of them have the same addresses inside."""
    inside = lab.network(f"in{number}")
    nat = lab.host(f"nat{number}").plug(internet, f"203.0.113.{number}/24").plug(inside, "10.0.0.1/24")
    nat.masquerade(internet, random_ports=random_ports)
    return lab.host(f"host{number}").plug(inside, "10.0.0.2/24", gateway="10.0.0.1")


def put(node: HostNode, key: str, value: str, within_s: float = 60.0) -> None:
    def done() -> bool:
        try:
            return node.request("PUT", f"/v1/kv/{key}", value.encode(), timeout_s=5.0).status == 200
        except OSError:
            return False

    wait_until(done, f"{node} stores {key}", within_s)


def holds(node: HostNode, key: str, value: str, within_s: float = 60.0) -> None:
    def there() -> bool:
        answer = node.request("GET", f"/v1/kv/{key}?consistency=stale")
        return answer.status == 200 and base64.b64decode(answer.json["value"]) == value.encode()

    wait_until(there, f"{node} holds {key}", within_s)


def path(node: HostNode, other: HostNode) -> str:
    return str(node.known_peers().get(other.identity.z32, {}).get("path"))
