"""Secrets are changed while everything runs: the cookie, the admin token, a node's identity key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Cluster, NodeProcess, started
from processes import wait_until

from aspen.identity import Identity

# Of this run alone: other clusters on this machine would be heard by multicast, and answered.
COOKIE, NEW_COOKIE = (f"e2e-{which}-{os.urandom(8).hex()}" for which in ("old", "new"))


class Writer(threading.Thread):
    """A light load: one key after the other, at one node after the other."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        super().__init__()
        self.nodes = nodes
        self.written = 0
        self.slowest_s = 0.0
        self.failed: list[str] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            began = time.monotonic()
            living = [node for node in self.nodes if node.alive]
            node = living[self.written % len(living)]
            try:
                answer = node.request("PUT", f"/v1/kv/rotation-{self.written}", b"x", timeout_s=20)
            except OSError as error:
                self.failed.append(f"{node}: {error}")
                continue
            if answer.status != 200:
                self.failed.append(f"{node}: {answer.status} {answer.body!r}")
                continue
            self.written += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def end(self) -> None:
        self._ended.set()
        self.join(30)


@contextmanager
def written_to(nodes: Sequence[NodeProcess]) -> Iterator[Writer]:
    writer = Writer(nodes)
    writer.start()
    try:
        yield writer
    finally:
        writer.end()


def give_file(node: NodeProcess, setting: str, *lines: str) -> Path:
    """The node's secret in a file, by a TOML file that outranks the environment."""
    secret = node.data_dir / setting
    write(secret, *lines)
    toml = node.data_dir / "aspen.toml"
    toml.write_text(f'{setting} = "{secret}"\n')
    node.settings["ASPEN_CONFIG"] = str(toml)
    return secret


def write(secret: Path, *lines: str) -> None:
    secret.touch(0o600)
    secret.write_text("\n".join(lines) + "\n")


def reload(node: NodeProcess) -> None:
    before = node.log().count("configuration reloaded")
    os.kill(node.pid, signal.SIGHUP)
    wait_until(lambda: node.log().count("configuration reloaded") > before, f"{node} has reloaded", 20)


def test_the_cookie_is_changed_under_load_and_nobody_notices(tmp_path: Path) -> None:
    # Not the `lan` timings: on a busy machine they cost leaders, and that is another test's matter.
    cluster = Cluster(tmp_path, 3, profile="default")
    for node in cluster:
        node.cookie = COOKIE
    files = [give_file(node, "cookie_file", COOKIE) for node in cluster]
    with started(cluster):
        with written_to(cluster.nodes) as writer:
            for lines in ((COOKIE, NEW_COOKIE), (NEW_COOKIE, COOKIE)):
                for node, file in zip(cluster, files, strict=True):
                    write(file, *lines)
                    reload(node)
                    so_far = writer.written
                    wait_until(lambda so_far=so_far: writer.written > so_far + 3, "writes go on", 20)
        assert writer.failed == []
        assert writer.slowest_s < 5
        # Half of them have taken the last step, and connections are made anew in both directions.
        write(files[0], NEW_COOKIE)
        reload(cluster.nodes[0])
        follower = cluster.followers()[0]
        follower.kill()
        follower.start()
        cluster.wait_ready(40)
        assert all(refusals(node, "wrong_cookie") == 0 for node in cluster)
        # Whoever comes after the last step must know the new one.
        last = cluster.nodes[2]
        write(files[2], COOKIE)
        last.stop()
        last.start()
        wait_until(lambda: refusals(cluster.nodes[0], "wrong_cookie") > 0, "the old cookie is refused", 40)
        write(files[2], NEW_COOKIE)
        last.stop()
        last.start()
        cluster.wait_ready(40)
        assert not any(secret in node.log() for node in cluster for secret in (COOKIE, NEW_COOKIE))


def refusals(node: NodeProcess, code: str) -> int:
    """How many peers the node has refused for that reason, by its metrics."""
    for line in node.request("GET", "/metrics").body.decode().splitlines():
        if line.startswith("aspen_quic_refusals_total") and f'reason="{code}"' in line:
            return int(float(line.rpartition(" ")[2]))
    return 0


TOKEN, NEW_TOKEN = "the-token-of-old-e2e", "the-token-to-come-e2e"


@pytest.fixture(scope="module")
def running_guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    node = NodeProcess(1, tmp_path_factory.mktemp("guarded") / "node-1")
    node.init = True
    give_file(node, "admin_token_file", TOKEN)
    try:
        node.start()
        node.wait_ready()
        yield node
    finally:
        node.end_whatever_is_left()


@pytest.fixture
def guarded(running_guarded: NodeProcess) -> NodeProcess:
    """A node with the old token in a file."""
    give_file(running_guarded, "admin_token_file", TOKEN)
    reload(running_guarded)
    return running_guarded


def status_with(node: NodeProcess, token: str) -> int:
    return node.request("GET", "/v1/cluster/status", headers={"Authorization": f"Bearer {token}"}).status


def test_the_admin_token_is_changed_and_both_are_taken_for_a_while(guarded: NodeProcess) -> None:
    file = guarded.data_dir / "admin_token_file"
    assert (status_with(guarded, TOKEN), status_with(guarded, NEW_TOKEN)) == (200, 401)
    write(file, NEW_TOKEN, TOKEN)
    reload(guarded)
    assert (status_with(guarded, TOKEN), status_with(guarded, NEW_TOKEN)) == (200, 200)
    write(file, NEW_TOKEN)
    reload(guarded)
    assert (status_with(guarded, TOKEN), status_with(guarded, NEW_TOKEN)) == (401, 200)
    assert "admin_token is shorter than" not in guarded.log()
    write(file, "short")
    reload(guarded)
    assert status_with(guarded, "short") == 200
    assert "admin_token is shorter than 16 characters" in guarded.log()


def test_what_can_not_be_used_changes_nothing(guarded: NodeProcess) -> None:
    file = guarded.data_dir / "admin_token_file"
    write(file, "")
    os.kill(guarded.pid, signal.SIGHUP)
    wait_until(lambda: "configuration not reloaded" in guarded.log(), "it says so", 20)
    assert status_with(guarded, TOKEN) == 200
    # Without any token the admin routes would be open: that is no change for a running node.
    (guarded.data_dir / "aspen.toml").write_text("")
    os.kill(guarded.pid, signal.SIGHUP)
    wait_until(lambda: "settled at the start" in guarded.log(), "it says so", 20)
    assert status_with(guarded, TOKEN) == 200
    assert guarded.request("GET", "/v1/cluster/status").status == 401


def test_other_settings_wait_for_a_restart_and_are_named(guarded: NodeProcess) -> None:
    toml = guarded.data_dir / "aspen.toml"
    toml.write_text(toml.read_text() + "log_keep_mib = 7\n")
    reload(guarded)
    line = [line for line in guarded.log().splitlines() if "configuration reloaded" in line][-1]
    assert '"waits_for_restart": ["log_keep_mib"]' in line
    assert guarded.request("GET", "/readyz").status == 200


def keys_by(node: NodeProcess) -> dict[int, str]:
    """The members' keys as one of them sees them."""
    return {member["node_id"]: member["endpoint_id"] for member in (node.status() or {}).get("members", ())}


def rotate(node: NodeProcess) -> subprocess.CompletedProcess[bytes]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
    command = [sys.executable, "-m", "aspen.cli.main", "cluster", "rotate-identity", "--addr", node.addr]
    return subprocess.run([*command, "--json"], env=environment, capture_output=True, timeout=90)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes; each test leaves them well."""
    cluster = Cluster(tmp_path_factory.mktemp("keys"), 3)
    with started(cluster):
        yield cluster


def test_nodes_change_their_keys_and_the_cluster_goes_on(members: Cluster) -> None:
    """A follower, then the leader."""
    for node in (members.followers()[0], members.leader()):
        before = node.request("GET", "/v1/cluster/status").json["endpoint_id"]
        with written_to([other for other in members if other is not node]) as writer:
            result = rotate(node)
            assert result.returncode == 0, result.stderr
            so_far = writer.written
            wait_until(lambda so_far=so_far: writer.written > so_far, "writes go on", 20)
        # A leader that changes may leave the fate of a write open; no write is lost or refused.
        assert [text for text in writer.failed if "outcome_unknown" not in text] == []
        told = json.loads(result.stdout)
        assert (told["node_id"], told["was"]) == (node.node_id, before)
        key_file = node.data_dir / "identity.key"
        assert Identity.load(key_file).z32 == told["becomes"] != before
        assert key_file.stat().st_mode & 0o777 == 0o600
        assert not (node.data_dir / "identity.key.next").exists()
        members.wait_ready(40)
        for one in members:
            wait_until(
                lambda one=one, node=node, told=told: keys_by(one).get(node.node_id) == told["becomes"],
                f"{one} knows it",
                20,
            )


def test_a_node_killed_between_the_two_steps_comes_back(members: Cluster) -> None:
    """The key is announced, the file still lies beside the old one: the next start takes it up."""
    node, asked = members.followers()
    result = node.request("POST", "/v1/cluster/rotate-identity", b"{}", timeout_s=30)
    assert result.status == 200, result.body
    node.kill()  # before it has started again, or just after: both must do
    node.start()
    becomes = result.json["becomes"]
    wait_until(lambda: (node.status() or {}).get("endpoint_id") == becomes, "it has its new key", 40)
    members.wait_ready(40)
    wait_until(lambda: keys_by(asked).get(node.node_id) == becomes, "it is adopted", 40)


def test_the_old_key_is_refused_when_it_was_changed(members: Cluster, tmp_path: Path) -> None:
    """Whoever stole it can no longer speak as that node. (All have changed theirs by now, or one does.)"""
    victim, asked = members.followers()
    stolen = victim.identity  # the key of the beginning
    if keys_by(asked)[victim.node_id] == stolen.z32:
        assert rotate(victim).returncode == 0
        members.wait_ready(40)
    thief = NodeProcess(victim.node_id, tmp_path / "thief", identity=stolen)
    thief.peers = [f"{n.node_id}@{keys_by(asked)[n.node_id]}@{n.host}:{n.quic_port}" for n in members]
    before = refusals(asked, "removed")
    try:
        thief.start()
        wait_until(lambda: refusals(asked, "removed") > before, "the thief is refused", 40)
        assert not thief.ready()
    finally:
        thief.end_whatever_is_left()
