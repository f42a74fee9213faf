"""What a service manager and a node say to each other. These tests play systemd; tests/packaging boots it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest

from aspen.errors import ConfigError
from aspen.systemd import FIRST_DESCRIPTOR, GivenSockets, Handed, Manager, handed_over, watchdog_ms

LISTENING = {"LISTEN_PID": "42", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "dns:http"}


# --- the environment (sd_listen_fds(3), sd_watchdog_enabled(3)) ---------------------------------


def test_descriptors_have_names() -> None:
    assert handed_over(LISTENING, 42) == [
        Handed(FIRST_DESCRIPTOR, "dns"),
        Handed(FIRST_DESCRIPTOR + 1, "http"),
    ]


def test_what_is_meant_for_a_parent_is_left_alone() -> None:
    assert handed_over(LISTENING, 43) == []
    assert handed_over({}, 43) == []
    assert watchdog_ms({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 43) is None


@pytest.mark.parametrize(
    "wrong", [{"LISTEN_FDS": "two"}, {"LISTEN_FDS": "3"}, {"LISTEN_FDNAMES": ""}, {"LISTEN_FDNAMES": "dns"}]
)
def test_an_environment_that_makes_no_sense_is_said_to(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        handed_over(LISTENING | wrong, 42)


def test_the_watchdog_s_patience() -> None:
    assert watchdog_ms({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 42) == 3_000
    assert watchdog_ms({"WATCHDOG_USEC": "3000000"}, 42) == 3_000
    assert watchdog_ms({"WATCHDOG_USEC": "0"}, 42) is None
    assert watchdog_ms({}, 42) is None


def test_nothing_of_it_is_left_for_children() -> None:
    environment = {"WATCHDOG_USEC": "3000000", "NOTIFY_SOCKET": "/nowhere", "HOME": "/"}
    manager = Manager.from_environment(environment, 42)
    assert environment == {"HOME": "/"}
    assert manager.listens
    assert manager.watchdog_ms == 3_000
    manager.ready()  # nobody is there: no harm


# --- what sockets are for -------------------------------------------------------------------------


@contextmanager
def bound(*kinds: socket.SocketKind, family: int = socket.AF_INET) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket(family, kind) for kind in kinds]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_sockets_by_name_and_kind() -> None:
    with bound(socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_DGRAM) as (udp, tcp, doq):
        given = GivenSockets([("dns", udp), ("dns", tcp), ("doq", doq)])
        assert given.count("dns") == 1
        assert given.address("dns") == tcp.getsockname()
        assert given.stream("dns") is tcp
        assert given.datagram("dns") == [udp]
        with pytest.raises(ConfigError, match="doq, which this node's settings don't switch on"):
            given.check_all_taken()
        assert given.datagram("doq") == [doq]
        given.check_all_taken()


@pytest.mark.parametrize(
    ("names", "kinds", "says"),
    [
        (["aspen.socket"], [socket.SOCK_STREAM], "known names .* dns, http, admin, https, dot, doq"),
        (["doq"], [socket.SOCK_STREAM], "wrong kind"),
        (["http"], [socket.SOCK_DGRAM], "wrong kind"),
        (["dns"], [socket.SOCK_DGRAM], "needs both"),
        (["dns"], [socket.SOCK_STREAM], "needs both"),
        (["http", "http"], [socket.SOCK_STREAM, socket.SOCK_STREAM], "two stream"),
    ],
)
def test_sockets_that_nobody_could_serve(names: list[str], kinds: list[socket.SocketKind], says: str) -> None:
    with bound(*kinds) as sockets, pytest.raises(ConfigError, match=says):
        GivenSockets(zip(names, sockets, strict=True))


# --- a real node ------------------------------------------------------------------------------


AS_THE_MANAGER = """
import os, sys
for at, descriptor in enumerate(filter(None, sys.argv[1].split(","))):
    os.dup2(int(descriptor), 3 + at)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""The sockets are descriptors 3, 4, …, and LISTEN_PID is the process that is executed."""


class Service:
    """A node that was started as a service manager starts it."""

    def __init__(self, folder: Path, sockets: list[tuple[str, socket.socket]], *settings: str) -> None:
        self.heard: list[str] = []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(folder / "notify")
        self._notify.bind(address)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASPEN_")}
        environment |= {
            "ASPEN_COOKIE": "5e1f0c3a-only-for-this-test",
            "ASPEN_PROFILE": "lan",
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": "900000",
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in sockets),
        }
        node = [sys.executable, "-m", "aspen.cli.main", "node", "run", "--node-id", "1", "--init"]
        node += ["--data-dir", str(folder / "data"), "--quic-port", "0", "--disable-mdns", *settings]
        descriptors = [sock.fileno() for _, sock in sockets]
        self.log_path = folder / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", AS_THE_MANAGER, ",".join(map(str, descriptors)), *node],
                env=environment,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def told(self, pattern: str, after: int = 0, timeout_s: float = 60) -> int:
        """Wait for a message that matches, but for the first `after`; how many there are up to it."""
        deadline = time.monotonic() + timeout_s
        at = after
        while True:
            while at < len(self.heard):
                at += 1
                if re.search(pattern, self.heard[at - 1]):
                    return at
            self._notify.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                self.heard.append(self._notify.recv(65_536).decode())
            except TimeoutError:
                log = self.log_path.read_text()[-3_000:]
                raise AssertionError(f"{pattern} was not told; the log:\n{log}") from None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._notify.close()


def high(kind: socket.SocketKind) -> socket.socket:
    """A socket well above the descriptors that a service is handed."""
    import fcntl

    with socket.socket(socket.AF_INET, kind) as low:
        return socket.socket(fileno=fcntl.fcntl(low.fileno(), fcntl.F_DUPFD, 50))


def test_a_node_serves_the_sockets_it_is_handed_and_says_how_it_is(tmp_path: Path) -> None:
    udp, tcp, http = high(socket.SOCK_DGRAM), high(socket.SOCK_STREAM), high(socket.SOCK_STREAM)
    udp.bind(("127.0.0.1", 0))
    tcp.bind(udp.getsockname())
    http.bind(("127.0.0.1", 0))
    for sock in (tcp, http):
        sock.listen()
    host, port = udp.getsockname()
    query = dns.message.make_query("version.bind", "TXT", "CH")
    early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    early.settimeout(60)
    early.sendto(query.to_wire(), (host, port))  # nobody is there yet
    sockets = [("dns", udp), ("dns", tcp), ("http", http)]
    service = Service(tmp_path, sockets, "--workers", "2", "--dns-port", "1", "--http-addr", "127.0.0.1:1")
    try:
        service.told(r"EXTEND_TIMEOUT_USEC=\d+")
        service.told(r"^READY=1$")
        # Ready is ready: one datagram, no second try. Two workers share the one socket.
        for _ in range(8):
            assert dns.query.udp(query, host, port=port, timeout=10).answer
        assert dns.query.tcp(query, host, port=port, timeout=10).answer
        assert dns.message.from_wire(early.recv(4_096)).id == query.id
        service.told(r"^STATUS=node 1, leader, leader is node 1, term \d+, applied \d+")
        seen = 0
        for _ in range(3):
            seen = service.told(r"^WATCHDOG=1$", seen)
        workers = subprocess.run(
            ["pgrep", "--parent", str(service.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert len(workers) == 2
        for worker in workers:
            os.kill(int(worker), signal.SIGSTOP)
        seen = service.told(r"^STATUS=.*no sign of life", seen)
        silent = len(service.heard)
        for worker in workers:
            os.kill(int(worker), signal.SIGCONT)
        assert "WATCHDOG=1" not in service.heard[seen:silent]
        service.told(r"^WATCHDOG=1$", seen)
        service.process.send_signal(signal.SIGHUP)
        seen = service.told(r"^RELOADING=1\nMONOTONIC_USEC=\d+$")
        service.told(r"^READY=1$", seen)
        service.process.send_signal(signal.SIGTERM)
        service.told(r"^STOPPING=1$")
        assert service.process.wait(30) == 0
    finally:
        service.end()
        for sock in (udp, tcp, http, early):
            sock.close()


def test_a_socket_open_to_the_network_has_no_admin_routes(tmp_path: Path) -> None:
    """The address that counts is the socket's, whatever the settings say."""
    http = high(socket.SOCK_STREAM)
    http.bind(("0.0.0.0", 0))
    http.listen()
    port = http.getsockname()[1]
    service = Service(tmp_path, [("http", http)], "--dns-port", "0", "--http-addr", "127.0.0.1:8080")
    try:
        service.told(r"^READY=1$")
        for path, status in (("/healthz", "200"), ("/v1/cluster/status", "404")):
            asked = subprocess.run(
                ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", f"http://127.0.0.1:{port}{path}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert asked.stdout == status, path
    finally:
        service.end()
        http.close()


def test_a_socket_for_what_is_switched_off_is_a_wrong_configuration(tmp_path: Path) -> None:
    https = high(socket.SOCK_STREAM)
    https.bind(("127.0.0.1", 0))
    service = Service(tmp_path, [("https", https)], "--dns-port", "0", "--http-addr", "127.0.0.1:0")
    try:
        assert service.process.wait(60) == 2
        assert "https, which this node's settings don't switch on" in service.log_path.read_text()
    finally:
        service.end()
        https.close()
