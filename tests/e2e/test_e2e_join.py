"""`aspen cluster join`: one command on a new machine, killed at will, turned away with a code."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import sign
from cluster import COOKIE, Cluster, NodeProcess, running
from processes import wait_until

from aspen.limits import RAFT_COMPACT_ENTRIES


class Newcomer(NodeProcess):
    """A machine that is told a ticket and nothing else; its log is what the command prints."""

    def __init__(self, data_dir: Path, ticket: str, *arguments: str) -> None:
        super().__init__(0, data_dir)
        self.ticket = ticket
        self.arguments = arguments
        self.joins = True

    def command(self) -> list[str]:
        ports = ["--dns-port", str(self.dns_port), "--quic-port", str(self.quic_port)]
        ports += ["--http-addr", f"{self.host}:{self.http_port}", "--host", self.host]
        command = ["cluster", "join", self.ticket] if self.joins else ["node", "run"]
        started = [sys.executable, "-m", "aspen.cli.main", *command]
        return [*started, "--data-dir", str(self.data_dir), *ports, *self.arguments]

    def environment(self) -> dict[str, str]:
        return {
            name: value
            for name, value in super().environment().items()
            if name not in ("ASPEN_COOKIE", "ASPEN_PEERS")
        }

    def says(self, line: str, since: int = 0) -> None:
        wait_until(lambda: line in self.log()[since:] or not self.alive, f"it says {line!r}", 60)
        assert line in self.log()[since:], self.log()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node with some state that its log doesn't have any more, so that newcomers need a snapshot."""
    settings = {"ASPEN_LOG_KEEP_ENTRIES": "1", "ASPEN_IROH_ENABLE_MDNS": "false"}
    with running(tmp_path_factory.mktemp("home"), 1, settings=settings) as cluster:
        for i in range(RAFT_COMPACT_ENTRIES + 64):
            assert cluster.node(1).request("PUT", f"/v1/kv/state/{i % 100}", b"x" * 5_000).status == 200
        cut = cluster.node(1).request("POST", "/v1/cluster/snapshot", b"{}")
        assert cut.json["first_index"] > 1
        yield cluster


def ticket_of(home: Cluster, query: str = "?signed=true") -> str:
    ticket: str = home.node(1).request("GET", f"/cluster-ticket{query}").json["ticket"]
    return ticket


def members(home: Cluster) -> dict[int, str]:
    return {m["node_id"]: m["role"] for m in (home.node(1).status() or {"members": []})["members"]}


def test_killed_anywhere_on_the_way_and_started_again_it_is_one_member(home: Cluster, tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path / "new", ticket_of(home))
    try:
        for line in ("asking the cluster", "let in as node 2", "of 2 voters"):
            seen = len(newcomer.log())
            newcomer.start()
            newcomer.says(line, seen if line == "asking the cluster" else 0)
            newcomer.kill()
            assert len(members(home)) <= 2
        newcomer.start()
        wait_until(lambda: members(home) == {1: "voter", 2: "voter"}, "it votes", 60)
        newcomer.wait_ready(60)
        newcomer.says("node 2 is one of 2 voters")
        assert newcomer.request("GET", "/v1/kv/state/99").status == 200
        for told in (newcomer.log(), home.node(1).log()):
            assert newcomer.ticket not in told
            assert COOKIE not in told
        assert newcomer.stop() == 0
        # It has all in writing: no ticket, no cookie, no node id.
        newcomer.joins = False
        newcomer.start()
        newcomer.wait_ready(60)
    finally:
        home.node(1).request("POST", "/v1/cluster/remove", b'{"node_id": 2}')
        newcomer.end_whatever_is_left()


def test_a_learner_is_a_read_replica_for_dns(home: Cluster, tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path / "replica", ticket_of(home), "--learner", "--node-id", "9")
    newcomer.start()
    try:
        newcomer.says("caught up: node 9 is a learner beside 1 voters")
        newcomer.wait_ready(60)
        packet = sign("read=replica")
        assert home.node(1).put(packet).status == 204
        wait_until(lambda: newcomer.resolves(packet), "the replica answers", 30)
        assert members(home)[9] == "learner"
        assert newcomer.put(sign("written=there")).status == 204  # and takes writes to the leader
    finally:
        home.node(1).request("POST", "/v1/cluster/remove", b'{"node_id": 9}')
        newcomer.end_whatever_is_left()


@pytest.mark.parametrize(
    ("query", "ruin", "code", "says"),
    [
        ("?signed=true", slice(0, -9), 2, "copied whole"),
        ("", slice(None), 2, "a plain ticket only tells where the cluster is"),
    ],
)
def test_turned_away_it_ends_with_a_message_and_a_code(
    home: Cluster, tmp_path: Path, query: str, ruin: slice, code: int, says: str
) -> None:
    newcomer = Newcomer(tmp_path / "new", ticket_of(home, query)[ruin])
    newcomer.data_dir = tmp_path / "not there yet"
    done = subprocess.run(
        newcomer.command(), env=newcomer.environment(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert not newcomer.data_dir.exists()  # nothing is left lying about


def test_a_node_that_was_let_in_and_cannot_start_keeps_what_it_was_told(
    home: Cluster, tmp_path: Path
) -> None:
    newcomer = Newcomer(tmp_path / "new", ticket_of(home), "--node-id", "8", "--learner")
    newcomer.data_dir = tmp_path / "not there yet"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind((newcomer.host, newcomer.dns_port))
        taken.listen()
        early = subprocess.run(
            newcomer.command(), env=newcomer.environment(), capture_output=True, timeout=60, check=False
        )
        assert early.returncode == 2
        assert f"TCP {newcomer.host}:{newcomer.dns_port}: taken by" in early.stderr.decode()
        assert 8 not in members(home)  # it has not even asked
        newcomer.joins = (
            False  # `node run` doesn't look first: what listens there may be a moment from its end
        )
        done = subprocess.run(
            [*newcomer.command(), "--ticket", newcomer.ticket],
            env=newcomer.environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
    try:
        assert done.returncode == 2, done.stderr.decode()
        assert (newcomer.data_dir / "joined.toml").exists()
        assert (newcomer.data_dir / "identity.key").exists()
    finally:
        home.node(1).request("POST", "/v1/cluster/remove", b'{"node_id": 8}')


@pytest.mark.parametrize("query", ["?ttl=5", "?signed=true&ttl=0", "?signed=yes", "?signed=true&ttl=604801"])
def test_what_no_ticket_is_issued_for(home: Cluster, query: str) -> None:
    assert home.node(1).request("GET", f"/cluster-ticket{query}").status == 400
