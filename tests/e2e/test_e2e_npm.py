"""The real npm client of pkarr publishes to our relay, reads back what it wrote, and dig shows it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import npm
import pytest
from clients import texts
from cluster import Cluster
from processes import wait_until

from aspen.identity import Identity

PACKAGE = "pkarr@1.3.0"
SCRIPT = Path(__file__).parent / "js" / "publish.mjs"


@pytest.fixture(scope="session")
def npm_folder() -> Path:
    return npm.installed(PACKAGE)


def client(npm_folder: Path, relay: str, *arguments: str) -> dict[str, Any]:
    """What the npm client says after one run."""
    done = subprocess.run(
        ["node", str(SCRIPT), str(npm_folder), relay, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_the_npm_client_publishes_to_a_single_node_and_reads_back(single: Cluster, npm_folder: Path) -> None:
    node = single.nodes[0]
    said = client(npm_folder, node.addr)
    assert (said["status"], said["identical"]) == (204, True)
    assert texts(node.dig(f"{said['key']}.aspen.local.", "A"), "A") == ["192.0.2.7"]


def test_the_npm_client_publishes_and_reads_back(cluster: Cluster, npm_folder: Path) -> None:
    wrote_to = cluster.followers()[0]
    for prefix in ("", "/pkarr"):
        said = client(npm_folder, wrote_to.addr + prefix)
        assert said["status"] == 204
        assert said["identical"] is True
        assert said["records"] == ["relay=https://npm.example./"]
        below = f"{said['key']}.aspen.local."
        for node in cluster:
            wait_until(
                lambda node=node, below=below: node.dig(below, "A").answer,
                f"{node} answers {below}",
                timeout_s=2,
            )
            assert texts(node.dig(below, "A"), "A") == ["192.0.2.7"]
            assert texts(node.dig(f"_iroh.{below}", "TXT")) == ['"relay=https://npm.example./"']


def test_the_npm_client_goes_on_with_the_others_when_its_node_is_killed(
    cluster: Cluster, npm_folder: Path
) -> None:
    """Published to the leader, which is killed; read from the others, published anew there, read from all."""
    identity = Identity.generate()
    seed, key = identity.seed.hex(), identity.endpoint_id.hex()
    killed = cluster.leader()
    assert client(npm_folder, killed.addr, seed, "relay=https://before.example./")["status"] == 204
    killed.kill()

    others = cluster.living
    for node in others:
        assert client(npm_folder, node.addr, "--resolve", key)["records"] == [
            "relay=https://before.example./"
        ]
    cluster.leader()
    again = client(npm_folder, others[0].addr, seed, "relay=https://after.example./")
    assert (again["status"], again["identical"]) == (204, True)

    killed.start()
    killed.wait_ready()
    cluster.wait_caught_up()
    for node in cluster:
        assert client(npm_folder, node.addr, "--resolve", key)["records"] == ["relay=https://after.example./"]
