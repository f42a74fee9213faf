"""The command that starts a node whose data directory is ready, as it would work on this machine now."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aspen.cli.doctor_machine import Wanted, port
from aspen.config import ClusterBootstrapConfig, format_address
from aspen.config.sources import variable_of

_UDP, _TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
_TRIES: Final = 100


def start_line(node_id: int, data_dir: Path, addresses: Sequence[tuple[str, int]]) -> str:
    """`addresses` are those at which others reach its QUIC. Ports that other programs have are passed by."""
    words = ["aspen", "node", "run", "--node-id", str(node_id), "--data-dir", str(data_dir)]
    default = ClusterBootstrapConfig()
    if addresses and _can_bind(addresses[0][0], 0, _UDP):  # it is one of this machine
        default = ClusterBootstrapConfig(host=addresses[0][0])
        words += ["--host", default.host]
    quic = addresses[0][1] if addresses else _free(default.quic_port, default.quic_host, _UDP)
    if quic not in (None, default.quic_port):
        words += ["--quic-port", str(quic)]
    dns = _free(default.dns_port, default.dns_host, _UDP, _TCP)
    if dns not in (None, default.dns_port):
        words += ["--dns-port", str(dns)]
    http = _free(default.http_listen[1], default.http_listen[0], _TCP)
    if http not in (None, default.http_listen[1]):
        words += ["--http-addr", format_address((default.http_listen[0], http))]
    return shlex.join(words)


def knows_cookie() -> bool:
    """Whether a node that this shell starts is told a cookie."""
    return any(variable_of(setting) in os.environ for setting in ("cookie", "cookie_file"))


def _free(first: int, host: str, *kinds: socket.SocketKind) -> int | None:
    """The first port from there on that nobody has."""
    for number in range(first, first + _TRIES):
        if all(_can_bind(host, number, kind) for kind in kinds):
            return number
    return None


def _can_bind(host: str, number: int, kind: socket.SocketKind) -> bool:
    return port(Wanted("", "", host, number, kind)).level == "ok"
