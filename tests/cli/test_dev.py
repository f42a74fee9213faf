"""`aspen dev`: what it lays out, and how it minds its processes (here, stand-ins for nodes)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aspen.cli import dev_layout
from aspen.cli.dev_processes import DevCluster
from aspen.config.sources import load_config
from aspen.errors import AspenError, ConfigError
from aspen.identity import Identity

SETTINGS = {"profile": "lan", "log_format": "console", "log_level": "info"}


@pytest.fixture
def _no_port_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is bound in these tests, so it doesn't matter what else runs on this machine."""
    monkeypatch.setattr(dev_layout, "_check_ports", lambda nodes: None)


def prepare(data_dir: Path, nodes: int) -> list[dev_layout.DevNode]:
    return dev_layout.prepare(
        data_dir, nodes=nodes, dns_port=5300, http_port=8080, quic_port=7300, settings=SETTINGS
    )


@pytest.mark.usefixtures("_no_port_check")
def test_the_layout_is_a_cluster(tmp_path: Path) -> None:
    nodes = prepare(tmp_path, 3)
    assert [node.node_id for node in nodes] == [1, 2, 3]
    assert nodes[2].dns_port == nodes[0].dns_port + 2
    cookie = dev_layout.cookie(tmp_path)
    for node in nodes:
        assert node.directory == tmp_path / f"node-{node.node_id}"
        loaded = load_config(config_file=node.config_file, environment={"ASPEN_COOKIE": cookie}, flags={})
        assert not [text for text in loaded.validate() if "disk" not in text]
        config = loaded.config
        assert config.init is (node.node_id == 1)
        assert config.http_listen == ("127.0.0.1", node.http_port)
        for peer in config.manual_peers:
            directory = tmp_path / f"node-{peer.node_id}"
            assert peer.endpoint_id == Identity.load(directory / "identity.key").endpoint_id
            assert peer.address == ("127.0.0.1", nodes[0].quic_port + peer.node_id - 1)
        assert len(config.manual_peers) == 2
        assert cookie not in node.config_file.read_text()
        assert all(cookie not in word for word in node.command)


@pytest.mark.usefixtures("_no_port_check")
def test_secrets_are_private(tmp_path: Path) -> None:
    nodes = prepare(tmp_path, 1)
    cookie = dev_layout.cookie(tmp_path)
    assert dev_layout.cookie(tmp_path) == cookie
    for file in (tmp_path / "cookie", nodes[0].directory / "identity.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.usefixtures("_no_port_check")
def test_a_second_start_finds_the_same_nodes(tmp_path: Path) -> None:
    first, second = prepare(tmp_path, 2), prepare(tmp_path, 2)
    keys = [(node.directory / "identity.key").read_text() for node in first]
    assert [(node.directory / "identity.key").read_text() for node in second] == keys
    with pytest.raises(ConfigError, match="2 nodes, not 3"):
        prepare(tmp_path, 3)


@pytest.mark.usefixtures("_no_port_check")
def test_a_directory_with_odd_characters(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\ é'
    odd.mkdir()
    (node,) = prepare(odd, 1)
    assert tomllib.loads(node.config_file.read_text("utf-8"))["data_dir"] == str(node.directory)


def test_the_directory_is_claimed(tmp_path: Path) -> None:
    second = dev_layout.claim(tmp_path)
    with dev_layout.claim(tmp_path), pytest.raises(AspenError, match=f"process {os.getpid()}"):
        second.__enter__()
    with dev_layout.claim(tmp_path):
        pass


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_named(
    kind: socket.SocketKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev_layout, "DEV_PORTS_MS", 0)
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        data_dir = tmp_path / "dev"
        with pytest.raises(AspenError, match=str(port)), dev_layout.claim(data_dir):
            dev_layout.prepare(data_dir, nodes=1, dns_port=port, http_port=1, quic_port=2, settings=SETTINGS)
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("nodes", "ports", "says"),
    [
        (3, (8081, 8080, 7300), "port 8081 would be both the dns port of node 1 and the http port of node 2"),
        (1, (7300, 8080, 7300), "the dns port of node 1 and the quic port of node 1"),
        (2, (5300, 8080, 5301), "the dns port of node 2 and the quic port of node 1"),
    ],
)
def test_ports_that_meet_are_named(
    nodes: int, ports: tuple[int, int, int], says: str, tmp_path: Path
) -> None:
    dns, http, quic = ports
    with pytest.raises(ConfigError) as refused:
        dev_layout.prepare(
            tmp_path, nodes=nodes, dns_port=dns, http_port=http, quic_port=quic, settings=SETTINGS
        )
    both = str(refused.value)
    assert all(part in both for part in says.removeprefix("port ").split(" and ")), both
    assert not (tmp_path / "node-1").exists()


# --- processes ---------------------------------------------------------------------------------

OBEDIENT = (
    "import signal, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    "print('a line of log', flush=True)\n"
    "sys.stdin.read()\n"  # as a node does: ends when its parent does
)
SHORT_LIVED = "import sys; print('last words', flush=True); sys.exit(7)"


@dataclass(frozen=True)
class StandIn(dev_layout.DevNode):
    script: str = OBEDIENT

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script]


def stand_ins(tmp_path: Path, *scripts: str) -> list[StandIn]:
    nodes = []
    for number, script in enumerate(scripts, 1):
        directory = tmp_path / f"node-{number}"
        directory.mkdir()
        nodes.append(StandIn(number, directory, 1, 1, 1, script))
    return nodes


@pytest.fixture(autouse=True)
def _restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def until_running(nodes: list[StandIn], capsys: pytest.CaptureFixture[str]) -> str:
    """Wait for every node's first line; returns what was shown."""
    shown = ""
    async with asyncio.timeout(20):
        while shown.count("a line of log") < len(nodes):
            await asyncio.sleep(0.01)
            shown += capsys.readouterr().out
    return shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_every_node(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = stand_ins(tmp_path, OBEDIENT, OBEDIENT)
    running = asyncio.create_task(DevCluster(nodes, tmp_path, "cookie", prefix=True).run())
    shown = await until_running(nodes, capsys)
    assert "node-1 | a line of log" in shown
    assert "node-2 | a line of log" in shown
    pids = [int(node.pid_file.read_text()) for node in nodes]
    os.kill(os.getpid(), number)
    assert await asyncio.wait_for(running, 20) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not any(node.pid_file.exists() for node in nodes)


async def test_a_dead_node_is_reported_and_not_restarted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = stand_ins(tmp_path, OBEDIENT, OBEDIENT)
    running = asyncio.create_task(DevCluster(nodes, tmp_path, "a cookie", prefix=True).run())
    await until_running(nodes, capsys)
    os.kill(int(nodes[1].pid_file.read_text()), signal.SIGKILL)
    shown = ""
    async with asyncio.timeout(20):
        while "to start it again" not in shown:
            await asyncio.sleep(0.01)
            shown += capsys.readouterr().out
    assert "node 2" in shown
    assert "killed by signal 9" in shown
    assert "a cookie" not in shown
    assert nodes[0].pid_file.exists()
    assert not nodes[1].pid_file.exists()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) == 0


async def test_when_every_node_has_ended_so_does_dev(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = stand_ins(tmp_path, SHORT_LIVED, SHORT_LIVED)
    code = await asyncio.wait_for(DevCluster(nodes, tmp_path, "cookie", prefix=False).run(), 20)
    shown = capsys.readouterr().out
    assert code == 1
    assert "last words" in shown
    assert "exit code 7" in shown
    assert "every node has ended" in shown
