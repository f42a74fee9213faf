"""`aspen doctor` on this machine: configuration, data directory, disk, identity, ports, multicast.

Nothing here needs a node, and nothing is changed: a port is bound and let go, a lock is tried.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from aspen.cli.findings import Finding, ok, problem, skipped, warning
from aspen.errors import IdentityError
from aspen.identity import Identity
from aspen.limits import DISK_UNHEALTHY_PERCENT, DISK_WARN_PERCENT

if TYPE_CHECKING:
    from aspen.config import ClusterBootstrapConfig

_MULTICAST: Final = ("224.0.0.251", 5353)  # RFC 6762 §3
_PRIVILEGED: Final = 1024


def machine_findings(config: ClusterBootstrapConfig, *, running: bool) -> Iterator[Finding]:
    """`running`: whether the node of this configuration runs, so that its ports are its own."""
    data_dir = config.data_path
    yield data_directory(data_dir, running=running)
    yield identity_file(config)
    yield disk(data_dir)
    if running:
        yield skipped("ports", "the node runs, and has them")
    else:
        for wanted in wanted_ports(config):
            yield port(wanted)
    if config.iroh.enable_mdns:
        yield multicast(config.quic_host)
    else:
        yield skipped("multicast", "iroh.enable_mdns is off")


def data_directory(data_dir: Path, *, running: bool) -> Finding:
    topic = "data directory"
    if not data_dir.exists():
        parent = data_dir.absolute().parent
        if not os.access(parent, os.W_OK):
            return problem(
                topic, f"{data_dir} is not there and {parent} can't be written", f"create {data_dir}"
            )
        return ok(topic, f"{data_dir} is not there yet and will be made")
    if not data_dir.is_dir() or not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        owner = data_dir.stat().st_uid
        return problem(
            topic,
            f"{data_dir} can't be read and written by user {os.geteuid()} (it belongs to user {owner})",
            f"run as its owner, or: chown -R {os.geteuid()} {data_dir}",
        )
    holder = _holder(data_dir / "lock")
    if holder is not None and not running:
        return problem(
            topic,
            f"{data_dir} is in use by process {holder}, and no node answers",
            "give --addr and --token of that node, or wait until the process has ended",
        )
    return ok(topic, f"{data_dir} can be read and written")


def _holder(lock: Path) -> str | None:
    """The process that has the data directory; None if nobody has."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return None


def identity_file(config: ClusterBootstrapConfig) -> Finding:
    topic = "identity"
    if config.iroh.secret_key is not None:
        return ok(topic, "the key comes from iroh.secret_key")
    file = config.data_path / "identity.key"
    if not file.exists():
        return ok(topic, f"{file} is not there yet and will be made")
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        identity = Identity.load(file)
    except (IdentityError, OSError) as error:
        return problem(topic, str(error), f"put the node's key file back to {file}, mode 0600")
    if mode & 0o077:
        return problem(topic, f"others may read {file} (mode {mode:04o})", f"chmod 600 {file}")
    return ok(topic, f"endpoint id {identity.z32}")


def disk(data_dir: Path) -> Finding:
    existing = next(path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    percent = 100 * usage.used / (usage.used + usage.free)
    says = f"the disk of {data_dir} is {percent:.0f} % full"
    if percent >= DISK_UNHEALTHY_PERCENT:
        return problem("disk", says, "make room: a node without room takes no writes")
    if percent >= DISK_WARN_PERCENT:
        return warning("disk", says, "make room before it is full")
    return ok("disk", says)


class Wanted(NamedTuple):
    """A port that the node would bind."""

    what: str
    setting: str
    host: str
    number: int
    kind: socket.SocketKind


def wanted_ports(config: ClusterBootstrapConfig) -> Iterator[Wanted]:
    udp, tcp = socket.SOCK_DGRAM, socket.SOCK_STREAM
    yield Wanted("QUIC", "quic_port", config.quic_host, config.quic_port, udp)
    yield Wanted("HTTP", "http_addr", *config.http_listen, tcp)
    if config.admin_listen is not None:
        yield Wanted("admin HTTP", "admin_addr", *config.admin_listen, tcp)
    if not config.dns_server.enable:
        return
    yield Wanted("DNS", "dns_port", config.dns_host, config.dns_port, udp)
    yield Wanted("DNS", "dns_port", config.dns_host, config.dns_port, tcp)
    https = config.dns_server.https_config
    if https is not None:
        yield Wanted("HTTPS", "https_config.port", config.https_host, https.port, tcp)
        if https.enable_dot:
            yield Wanted("DoT", "https_config.dot_port", config.encrypted_dns_host, https.dot_port, tcp)
        if https.enable_doq:
            yield Wanted("DoQ", "https_config.doq_port", config.encrypted_dns_host, https.doq_port, udp)


def port(wanted: Wanted) -> Finding:
    protocol = "UDP" if wanted.kind is socket.SOCK_DGRAM else "TCP"
    where = f"{wanted.what}, {protocol} {wanted.host}:{wanted.number}"
    topic = "ports"
    try:
        family, _, _, _, address = socket.getaddrinfo(wanted.host, wanted.number, type=wanted.kind)[0]
        with socket.socket(family, wanted.kind) as probe:
            if wanted.kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        return problem(topic, f"{where}: {error.strerror}", "give an address of this machine")
    except OSError as error:
        return problem(topic, f"{where}: {_why(error, wanted)}", _remedy(error, wanted))
    return ok(topic, f"{where} is free")


def _why(error: OSError, wanted: Wanted) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"taken by {port_holder(wanted.number, wanted.kind) or 'another process'}"
    return error.strerror or str(error)


def _remedy(error: OSError, wanted: Wanted) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"stop that process, or give another {wanted.setting}"
    if error.errno in (errno.EACCES, errno.EPERM) and wanted.number < _PRIVILEGED:
        return f"ports below {_PRIVILEGED} need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{wanted.host} is no address of this machine: see `ip address`"
    return f"give another {wanted.setting}"


def port_holder(number: int, kind: socket.SocketKind) -> str | None:
    """Which process has the port, as far as this user may see."""
    table = "udp" if kind is socket.SOCK_DGRAM else "tcp"
    inodes = set()
    for file in (Path(f"/proc/net/{table}"), Path(f"/proc/net/{table}6")):
        try:
            lines = file.read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            listening = table == "udp" or fields[3] == "0A"
            if listening and int(fields[1].rpartition(":")[2], 16) == number:
                inodes.add(f"socket:[{fields[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in inodes:
                process = descriptor.parts[2]
                return f"process {process} ({_program(Path('/proc', process))})"
        except OSError:
            continue
    return None


def _program(process: Path) -> str:
    """What a process is, in a word; its arguments are nobody's business."""
    words = (process / "cmdline").read_bytes().split(b"\0")
    if any(word.rpartition(b"/")[2].startswith(b"aspen") for word in words):
        return "aspen"  # run by an interpreter
    return (process / "comm").read_text().strip()


def multicast(host: str) -> Finding:
    """Whether this machine lets a socket join the group of multicast DNS."""
    topic = "multicast"
    interface = host if ":" not in host else "0.0.0.0"  # noqa: S104  any interface
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            group = socket.inet_aton(_MULTICAST[0]) + socket.inet_aton(interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            sock.sendto(b"", _MULTICAST)
    except OSError as error:
        return warning(
            topic,
            f"no multicast at {interface}: {error.strerror or error}",
            "allow UDP 5353 to 224.0.0.251 and give the machine a route for it, or find the others by a "
            "ticket, peers or bootstrap_nodes (and set iroh.enable_mdns = false)",
        )
    return ok(topic, f"joined {_MULTICAST[0]} at {interface}")
