"""What `aspen dev` puts into its directory, before any process is started.

::

    <data-dir>/dev.lock           held by the `aspen dev` that runs
    <data-dir>/cookie             the cluster's secret, 0600
    <data-dir>/node-<i>/          node i's data directory
        identity.key              0600, made here so that every node can be told every endpoint id
        node.toml                 its configuration, rewritten at every start; holds no secret
        node.pid                  its process id while it runs
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aspen.cli.node import PID_FILE
from aspen.errors import AspenError, ConfigError
from aspen.identity import Identity
from aspen.limits import DEV_PORTS_MS

HOST: Final = "127.0.0.1"
_PORT_POLL_MS: Final = 100


@dataclass(frozen=True, slots=True)
class DevNode:
    """One node of the cluster, and where to find it."""

    node_id: int
    directory: Path
    dns_port: int
    http_port: int
    quic_port: int

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def pid_file(self) -> Path:
        return self.directory / PID_FILE

    @property
    def config_file(self) -> Path:
        return self.directory / "node.toml"

    @property
    def command(self) -> list[str]:
        """What runs the node. The cookie goes through the environment: arguments are public."""
        return [sys.executable, "-m", "aspen.cli.main", "node", "run", "--config", str(self.config_file)]

    def restart_command(self, data_dir: Path) -> str:
        """The same for a person's shell."""
        cookie_file = shlex.quote(str((data_dir / "cookie").resolve()))
        return f'ASPEN_COOKIE="$(cat {cookie_file})" {shlex.join(self.command)}'


@contextlib.contextmanager
def claim(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process. Raises `AspenError` that says who has it."""
    is_new = not data_dir.exists()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data_dir / "dev.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise AspenError(f"{data_dir} is in use by another `aspen dev` (process {holder})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if is_new and [path.name for path in data_dir.iterdir()] == ["dev.lock"]:
            shutil.rmtree(data_dir)  # nothing came of it
        os.close(descriptor)


def cookie(data_dir: Path) -> str:
    """The cluster's secret, made on first use."""
    file = data_dir / "cookie"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as new:
            new.write(secrets.token_urlsafe(24) + "\n")
    return file.read_text("ascii").strip()


def prepare(
    data_dir: Path, *, nodes: int, dns_port: int, http_port: int, quic_port: int, settings: Mapping[str, str]
) -> list[DevNode]:
    """Make every node's directory, identity and configuration file.

    Raises `ConfigError` if the directory holds a cluster of another size or two listeners were to have one
    port, `AspenError` if a port is taken.
    """
    existing = sum(1 for path in data_dir.glob("node-*") if (path / "identity.key").exists())
    if existing not in (0, nodes):
        raise ConfigError(
            f"{data_dir} holds a cluster of {existing} node{'s' if existing > 1 else ''}, not {nodes}: "
            f"give --nodes {existing}, or another --data-dir"
        )
    laid_out = [
        DevNode(
            node_id=index + 1,
            directory=(data_dir / f"node-{index + 1}").absolute(),
            dns_port=dns_port + index,
            http_port=http_port + index,
            quic_port=quic_port + index,
        )
        for index in range(nodes)
    ]
    _check_overlaps(laid_out)
    _check_ports(laid_out)
    endpoint_ids = {}
    for node in laid_out:
        node.directory.mkdir(mode=0o700, exist_ok=True)
        endpoint_ids[node.node_id] = Identity.load_or_create(node.directory / "identity.key").z32
    for node in laid_out:
        peers = [
            f"{other.node_id}@{endpoint_ids[other.node_id]}@{HOST}:{other.quic_port}"
            for other in laid_out
            if other is not node
        ]
        node.config_file.write_text(_configuration(node, peers, settings))
    return laid_out


def _configuration(node: DevNode, peers: list[str], settings: Mapping[str, str]) -> str:
    values: dict[str, object] = {
        "node_id": node.node_id,
        "data_dir": str(node.directory),
        "host": HOST,
        "dns_port": node.dns_port,
        "http_addr": f"{HOST}:{node.http_port}",
        "quic_port": node.quic_port,
        "peers": peers,
        "init": node.node_id == 1,
        **settings,
    }
    # JSON's spelling of strings, numbers, booleans and lists of strings is TOML's too.
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    lines += [
        "",
        "[iroh]",
        "# On one machine every node is told of every other.",
        "enable_mdns = false",
        "",
    ]
    return "# Written by `aspen dev` at every start. The cookie comes through ASPEN_COOKIE.\n" + "\n".join(
        lines
    )


def _listeners(node: DevNode) -> tuple[tuple[str, socket.SocketKind, int], ...]:
    """Option, kind and port."""
    return (
        ("dns", socket.SOCK_DGRAM, node.dns_port),
        ("dns", socket.SOCK_STREAM, node.dns_port),
        ("http", socket.SOCK_STREAM, node.http_port),
        ("quic", socket.SOCK_DGRAM, node.quic_port),
    )


def _check_overlaps(nodes: list[DevNode]) -> None:
    """Each node takes the ports after the one before it: the ranges must not meet."""
    taken: dict[tuple[socket.SocketKind, int], tuple[int, str]] = {}
    for node in nodes:
        for use, kind, port in _listeners(node):
            other, other_use = taken.setdefault((kind, port), (node.node_id, use))
            if (other, other_use) != (node.node_id, use):
                one, two = f"the {other_use} port of node {other}", f"the {use} port of node {node.node_id}"
                raise ConfigError(
                    f"port {port} would be both {one} and {two}: "
                    f"choose --{other_use}-port and --{use}-port at least {len(nodes)} apart"
                )


def _check_ports(nodes: list[DevNode]) -> None:
    """Raise if a port can't be bound: a second UDP listener could even share one unnoticed.

    What an earlier run left behind may take a moment to end, so this waits a little.
    """
    deadline = time.monotonic() + DEV_PORTS_MS / 1_000
    while (problem := _taken_port(nodes)) is not None:
        if time.monotonic() > deadline:
            raise AspenError(problem)
        time.sleep(_PORT_POLL_MS / 1_000)


def _taken_port(nodes: list[DevNode]) -> str | None:
    """What to say about the first port that can't be bound."""
    for node in nodes:
        for use, kind, port in _listeners(node):
            with socket.socket(socket.AF_INET, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the node does
                try:
                    probe.bind((HOST, port))
                except (OSError, OverflowError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "there is no such port"
                    name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
                    return (
                        f"{name} port {port} of node {node.node_id} can't be bound ({reason}): "
                        f"choose another --{use}-port"
                    )
    return None
