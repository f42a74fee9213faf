"""The real npm client of pkarr publishes to our relay, reads back what it wrote, and dig shows it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import npm
import pytest
from clients import texts
from cluster import Cluster
from processes import wait_until

PACKAGE = "pkarr@1.3.0"
SCRIPT = Path(__file__).parent / "js" / "publish.mjs"


@pytest.fixture(scope="session")
def npm_folder() -> Path:
    return npm.installed(PACKAGE)


def test_the_npm_client_publishes_and_reads_back(cluster: Cluster, npm_folder: Path) -> None:
    wrote_to = cluster.followers()[0]
    for prefix in ("", "/pkarr"):
        done = subprocess.run(
            ["node", str(SCRIPT), str(npm_folder), wrote_to.addr + prefix],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
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
