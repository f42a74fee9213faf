"""What a real node says of its health while something real is wrong with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from cluster import Cluster
from processes import wait_until

from aspen.limits import DNS_WORKER_SILENT_MS


def test_a_stuck_worker_is_seen_and_the_process_is_not_worth_keeping(single: Cluster) -> None:
    (node,) = single
    (worker,) = node.workers_alive()
    assert node.request("GET", "/healthz").status == 200
    os.kill(worker, signal.SIGSTOP)
    try:
        limit_s = DNS_WORKER_SILENT_MS / 1000 + 20
        wait_until(lambda: node.request("GET", "/healthz").status == 503, "it isn't alive", limit_s)
        answer = node.request("GET", "/health")
        assert answer.status == 503
        assert "no sign of life: 0 of 1" in answer.json["reason"]
        assert node.request("GET", "/readyz?for=dns").status == 503
        told = aspen_health(node.addr)
        assert told.returncode == 1
        assert "no sign of life" in told.stdout
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: node.request("GET", "/healthz").status == 200, "it is alive again", 30)


def test_a_node_without_a_majority_answers_dns_and_is_not_ready(cluster: Cluster) -> None:
    last, *others = cluster
    for node in others:
        node.kill()
    wait_until(lambda: last.request("GET", "/readyz").status == 503, "it lost its leader", 30)
    answer = last.request("GET", "/health").json
    assert "no leader is known" in answer["reasons"]
    assert answer["status"] in ("degraded", "unhealthy")  # the latter if this machine's disk is full, too
    assert last.request("GET", "/healthz").status == 200
    assert last.request("GET", "/readyz?for=dns").status == 200
    told = aspen_health(last.addr, "--json")
    checks = {check["name"]: check["status"] for check in json.loads(told.stdout)["checks"]}
    assert checks["leader"] == "degraded"
    assert checks["writer"] == checks["workers"] == "healthy"


def aspen_health(addr: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aspen.cli.main", "health", "--addr", addr, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
