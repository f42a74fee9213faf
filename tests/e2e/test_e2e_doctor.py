"""`aspen doctor` at real nodes: one that is well, and a cluster with a stranger and a member that is down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import Cluster, NodeProcess
from processes import wait_until


def doctor(node: NodeProcess, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
    environment |= {
        "ASPEN_DATA_DIR": str(node.data_dir),
        # It is its own relay and discovery service.
        "ASPEN_IROH_ENABLE_PKARR": "true",
        "ASPEN_IROH_PKARR_RELAY_URL": f"{node.addr}/pkarr",
        "ASPEN_IROH_ENABLE_DNS_DISCOVERY": "true",
        "ASPEN_IROH_DNS_DISCOVERY_URL": f"dns://{node.host}:{node.dns_port}",
    }
    result = subprocess.run(
        [sys.executable, "-m", "aspen.cli.main", "doctor", "--json", "--addr", node.addr, *arguments],
        env=environment,
        capture_output=True,
        timeout=60,
    )
    return result.returncode, json.loads(result.stdout)["findings"]


def wrong(findings: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(f["topic"], f["level"]) for f in findings if f["level"] == "problem" and f["topic"] != "disk"}


def test_faults_show_and_go(cluster: Cluster, tmp_path: Path) -> None:
    asked = cluster.nodes[0]
    _, findings = doctor(asked)
    said = {f["topic"]: f["says"] for f in findings}
    well = {(f["topic"], f["level"]) for f in findings}
    assert {("DNS", "ok"), ("pkarr relay", "ok"), ("DNS discovery", "ok")} <= well
    assert said["node"].startswith("node 1 answers")
    assert "peers" not in {topic for topic, _ in wrong(findings)}

    cluster.nodes[2].kill()
    code, findings = doctor(asked)

    def unreachable() -> bool:
        nonlocal code, findings
        code, findings = doctor(asked)
        return ("peers", "problem") in wrong(findings)

    wait_until(unreachable, "a member that is down is missed", 40)
    assert code == 1
    (missed,) = [f for f in findings if f["topic"] == "peers" and f["level"] == "problem"]
    assert missed["says"].startswith("node 3 can't be reached at ")
    assert "firewall" in missed["do"]

    stranger = NodeProcess(7, tmp_path / "stranger", cookie="another cookie than theirs")
    stranger.peers = [asked.as_peer]
    try:
        stranger.start()
        wait_until(lambda: ("refused", "problem") in wrong(doctor(asked)[1]), "the stranger shows", 40)
    finally:
        stranger.end_whatever_is_left()
