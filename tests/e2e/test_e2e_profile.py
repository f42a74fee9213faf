"""`aspen cluster profile` of a node that is busy."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from cluster import Cluster
from processes import wait_until
from typer.testing import CliRunner

from aspen.cli.common import Exit
from aspen.cli.main import app


def test_a_busy_node_says_what_it_does(tmp_path: Path, single: Cluster) -> None:
    node = single.nodes[0]
    stopping = threading.Event()

    def write() -> None:
        while not stopping.is_set():
            node.request("PUT", "/v1/kv/busy", b"x" * 10_000)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    command = ["cluster", "profile", "--seconds", "2", "--addr", node.addr]

    def take(seconds: float) -> int:
        return node.request("POST", "/v1/cluster/profile", b'{"seconds": %g}' % seconds, timeout_s=30).status

    first = threading.Thread(target=lambda: wait_until(lambda: take(3) == 200, "a profile", 60))
    try:
        first.start()
        wait_until(lambda: take(0.1) == 503, "another is refused meanwhile", 60)
        first.join()
        done = CliRunner().invoke(app, [*command, "--json", "--flame", str(tmp_path / "node.svg")])
        text = CliRunner().invoke(app, [*command, "--seconds", "1", "--flame", str(tmp_path / "node.folded")])
    finally:
        stopping.set()
        for writer in writers:
            writer.join()
    assert done.exit_code == text.exit_code == Exit.OK, done.stderr + text.stderr
    told = json.loads(done.stdout)
    assert told["samples"] > 0
    assert told["parts"].get("lmdb", 0) + told["parts"].get("http", 0) > 0
    assert {"node", "worker 1"} <= told["cpu"].keys()
    assert told["cpu"]["node"] > 0
    assert (tmp_path / "node.svg").read_text().startswith("<svg")
    stack, _, count = (tmp_path / "node.folded").read_text().splitlines()[0].rpartition(" ")
    assert ":" in stack
    assert int(count) > 0
    assert "with callees" in text.stdout
    assert node.request("POST", "/v1/cluster/profile", b'{"seconds": 61}').status == 400
