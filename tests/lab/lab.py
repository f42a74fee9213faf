"""Machines on one machine: network namespaces with wires between them, and nodes that run there.

A `Lab` makes *hosts*, each a network namespace with its own addresses, routes, `/etc/hosts` and
`/etc/resolv.conf`, and plugs them into *networks* (bridges, so multicast works). A host may be a router
between networks, or a NAT. Everything can change while nodes run: addresses, links, names.

    lan = lab.network("lan")
    one = lab.host("one").plug(lan, "10.9.0.1/24")
    node = one.node(1, init=True)
    node.start()
    node.wait_ready()
    node.request("GET", "/readyz")        # from inside that host, by a socket made there

Namespaces are held by nothing but file descriptors of this process, and nodes end with it: whatever
becomes of the test run, nothing is left behind. What the machine doesn't grant raises `NotGranted`.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dns.message
import dns.query
import pytest
from clients import Answer
from cluster import NodeProcess
from processes import end_with_parent, session_members

T = TypeVar("T")

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)
_MOUNTED = ("hosts", "resolv.conf")
_ENTER_FILES = """
for name in hosts resolv.conf; do mount --bind "$1/$name" "/etc/$name" || exit 125; done
shift
exec "$@"
"""

QUIC_PORT, HTTP_PORT, DNS_PORT = 7300, 8080, 5300
"""Every host has all ports to itself."""


class NotGranted(pytest.skip.Exception):
    """What this machine doesn't allow, or doesn't have installed: the test is skipped, with this line."""


def in_namespace(namespace: int, action: Callable[[], T]) -> T:
    """Do something in a network namespace, by a thread that ends afterwards: a thread has one of its own."""
    done: list[T | BaseException] = []

    def enter() -> None:
        try:
            if _libc.setns(namespace, _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            done.append(action())
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0]


def _new_namespace() -> int:
    """A network namespace that lives while the descriptor is open (and while a process is in it)."""
    made: list[int | OSError] = []

    def unshare() -> None:
        if _libc.unshare(_CLONE_NEWNET):
            code = ctypes.get_errno()
            made.append(OSError(code, os.strerror(code)))
        else:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=unshare)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise NotGranted(f"no network namespaces: {made[0].strerror} (root may, or `unshare -Urmn pytest …`)")
    return made[0]


@dataclass(frozen=True)
class Network:
    """A switch that hosts are plugged into."""

    name: str


class Host:
    """A machine of its own, as far as the network is concerned. Made by `Lab.host`."""

    def __init__(self, lab: Lab, name: str, folder: Path) -> None:
        self.name = name
        self.namespace = _new_namespace()
        self.folder = folder
        self.addresses: dict[str, str] = {}
        """Network → address, without the length of the prefix."""
        self.processes: list[subprocess.Popen[bytes]] = []
        self._lab = lab
        self._gateway: str | None = None
        folder.mkdir(parents=True)
        self.set_hosts({})
        self.set_resolver()
        self.ip("link set lo up")

    def __repr__(self) -> str:
        return self.name

    @property
    def path(self) -> str:
        """How other processes name the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.namespace}"

    @property
    def address(self) -> str:
        """Of the network it was plugged into first."""
        return next(iter(self.addresses.values()))

    # --- cables, addresses, routes ----------------------------------------------------------------

    def plug(self, network: Network, address: str, *, gateway: str | None = None) -> Host:
        """Into a network, with an address such as `10.9.0.1/24`; the interface has the network's name."""
        self._lab.wire(self, network)
        self.ip(f"addr add {address} dev {network.name} nodad", f"link set {network.name} up")
        self.addresses[network.name] = address.partition("/")[0]
        if gateway is not None:
            self.route(gateway)
        return self

    def readdress(self, network: Network, address: str, *, gateway: str | None = None) -> None:
        """It moves: another address from now on, and none of the old ones."""
        self.ip(f"addr flush dev {network.name} scope global", f"addr add {address} dev {network.name} nodad")
        self.addresses[network.name] = address.partition("/")[0]
        if gateway or self._gateway:  # routes went with the address
            self.route(gateway or self._gateway or "")

    def route(self, gateway: str) -> None:
        """The way to everywhere else."""
        self._gateway = gateway
        self.ip(f"route replace default via {gateway}")

    def unplug(self, network: Network) -> None:
        self.ip(f"link set {network.name} down")

    def replug(self, network: Network) -> None:
        self.ip(f"link set {network.name} up")
        if self._gateway:
            self.route(self._gateway)

    def forward(self) -> Host:
        """Be a router between the networks it is plugged into."""
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        return self

    def masquerade(self, outside: Network, *, random_ports: bool = False) -> Host:
        """Be a NAT: whoever is behind it goes out under its address, and only answers come in.

        With `random_ports` every destination sees another port, so that one side can't tell the other
        where to knock ("symmetric" NAT). Raises `NotGranted` without nftables.
        """
        if shutil.which("nft") is None:
            raise NotGranted("nft (nftables) is not installed")
        self.forward()
        rules = f"""
            table ip nat {{
              chain out {{
                type nat hook postrouting priority srcnat
                oifname "{outside.name}" masquerade {"fully-random" if random_ports else ""}
              }}
            }}
            table ip filter {{
              chain through {{
                type filter hook forward priority filter; policy drop
                ct state established,related accept
                iifname != "{outside.name}" accept
              }}
              chain in {{
                type filter hook input priority filter; policy accept
                iifname "{outside.name}" ct state new drop
              }}
            }}"""
        try:
            self.run("nft", "-f", "-", given=rules)
        except AssertionError as error:
            raise NotGranted(f"no NAT by nftables: {error}") from None
        return self

    # --- names ------------------------------------------------------------------------------------

    def set_hosts(self, names: dict[str, str]) -> None:
        """`/etc/hosts`: name → address. Running programs see the change."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        self._write("hosts", lines)

    def set_resolver(self, *servers: str) -> None:
        """`/etc/resolv.conf`; without servers, one that isn't there."""
        lines = [f"nameserver {server}" for server in servers or ("127.0.0.1",)]
        self._write("resolv.conf", [*lines, "options timeout:1 attempts:1"])

    def _write(self, name: str, lines: list[str]) -> None:
        # In place: a bind mount follows the file, not its name.
        (self.folder / name).write_text("\n".join(lines) + "\n")

    # --- programs ---------------------------------------------------------------------------------

    @property
    def enter(self) -> list[str]:
        """How a command begins that is to run here; the pid stays the same."""
        files = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER_FILES, "sh"]
        return ["nsenter", f"--net={self.path}", *files, str(self.folder)]

    def ip(self, *commands: str) -> None:
        """Run commands of ip(8)."""
        self._lab.ip(self.path, commands)

    def run(self, *command: str, given: str | None = None, timeout_s: float = 30.0) -> str:
        """Run to the end; what it printed. Raises `AssertionError` if it failed."""
        done = self.run_unchecked(*command, given=given, timeout_s=timeout_s)
        if done.returncode:
            raise AssertionError(f"{self}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def run_unchecked(
        self, *command: str, given: str | None = None, timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter, *command],
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=_environment(),
        )

    def aspen(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """The command line, here."""
        return self.run_unchecked(sys.executable, "-m", "aspen.cli.main", *arguments, timeout_s=timeout_s)

    def start(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """A program that runs until the lab ends."""
        with open(log, "ab") as log_file:
            process = subprocess.Popen(
                [*self.enter, *command],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self.processes.append(process)
        return process

    def open_socket(
        self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET, protocol: int = 0
    ) -> socket.socket:
        """A socket of this host, for this process: what it connects to is reached from here."""
        return in_namespace(self.namespace, lambda: socket.socket(family, kind, protocol))

    def http(
        self,
        port: int,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """One request from here to here."""
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = self.open_socket()
        try:
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(("127.0.0.1", port))
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def node(self, node_id: int, *, init: bool = False, **settings: str) -> HostNode:
        """A node here; settings as environment variables. It isn't started yet."""
        node = HostNode(self, node_id, self._lab.base / f"node-{node_id}")
        node.init = init
        node.settings = dict(settings)
        self._lab.nodes.append(node)
        return node

    def close(self) -> None:
        for process in self.processes:
            for pid in {process.pid, *session_members(process.pid)} if process.poll() is None else ():
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            process.wait()
        os.close(self.namespace)


class HostNode(NodeProcess):
    """A node on a host, told its id and the cookie, and nothing else."""

    def __init__(self, host: Host, node_id: int, data_dir: Path) -> None:
        super().__init__(node_id, data_dir, workers=0, host=host.address)
        self.on = host
        self.bind: str | None = None
        """`--host`; without it QUIC binds all addresses and DNS 127.0.0.1."""
        self.dns_port, self.http_port, self.quic_port = DNS_PORT, HTTP_PORT, QUIC_PORT
        self.arguments: list[str] = []
        """Further flags."""
        self.told_id = True
        """Whether it is told its node id."""

    @property
    def as_peer(self) -> str:
        return f"{self.node_id}@{self.identity.z32}@{self.on.address}:{self.quic_port}"

    @property
    def addr(self) -> str:
        """For the command line on the same host."""
        return f"http://127.0.0.1:{self.http_port}"

    def command(self) -> list[str]:
        node = [sys.executable, "-m", "aspen.cli.main", "node", "run"]
        node += ["--node-id", str(self.node_id)] if self.told_id else []
        node += ["--data-dir", str(self.data_dir), "--log-format", "json", *self.arguments]
        node += ["--host", self.bind] if self.bind else []
        return [*self.on.enter, *node, *(["--init"] if self.init else [])]

    def environment(self) -> dict[str, str]:
        given = {"ASPEN_COOKIE": self.cookie, "ASPEN_PEERS": ",".join(self.peers)}
        return _environment() | {name: text for name, text in given.items() if text} | self.settings

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """One request from its own host."""
        return self.on.http(self.http_port, method, path, body, headers, timeout_s)

    def dig(self, name: str, rtype: str = "TXT", *, tcp: bool = False) -> dns.message.Message:
        """Ask it by UDP, from its own host."""
        assert not tcp, "ask by UDP"
        with self.on.open_socket(socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            return dns.query.udp(
                dns.message.make_query(name, rtype), "127.0.0.1", timeout=3, port=self.dns_port, sock=sock
            )

    def known_peers(self) -> dict[str, dict[str, Any]]:
        """What it knows of others, by endpoint id."""
        return {peer["endpoint_id"]: peer for peer in self.request("GET", "/v1/peers").json["peers"]}

    def sources(self, other: NodeProcess) -> set[str]:
        """Who told it of another's addresses."""
        known = self.known_peers().get(other.identity.z32, {"addresses": []})
        return {source for address in known["addresses"] for source in address["sources"]}

    def connected_at(self, other: NodeProcess) -> set[str]:
        """Where another node is connected with this one, as the other sees it."""
        known = other.request("GET", "/v1/peers").json["peers"]
        return {
            connection["address"]
            for peer in known
            if peer["endpoint_id"] == self.identity.z32
            for connection in peer["connections"]
        }

    def hears(self, *others: NodeProcess) -> bool:
        """Whether announcements of all of them have come."""
        peers = self.known_peers()
        return all(peers.get(o.identity.z32, {}).get("announced_ms_ago", -1) >= 0 for o in others)


def agreed(nodes: Sequence[HostNode]) -> bool:
    """Whether all follow one leader."""
    leaders = {(node.status() or {}).get("leader_id") for node in nodes}
    return len(leaders) == 1 and not leaders & {None, 0}


class Lab:
    """All hosts and networks of a test; `close` ends them. Raises `NotGranted`."""

    def __init__(self, base: Path) -> None:
        for tool in ("ip", "nsenter", "unshare", "mount"):
            if shutil.which(tool) is None:
                raise NotGranted(f"{tool} is not installed")
        self.base = base
        self.hosts: list[Host] = []
        self.nodes: list[HostNode] = []
        self._networks: list[Network] = []
        self._ports = 0
        self._room = _new_namespace()  # where the switches stand
        self._path = f"/proc/{os.getpid()}/fd/{self._room}"
        try:
            self.host("probe").run("true")  # mounts, too, have to be granted
        except AssertionError as error:
            self.close()
            raise NotGranted(f"no mount namespaces: {error}") from None
        self.hosts.pop().close()

    def network(self, name: str) -> Network:
        """A switch; at most 15 characters, as it names interfaces."""
        try:
            self.ip(self._path, [f"link add {name} type bridge mcast_snooping 0", f"link set {name} up"])
        except AssertionError as error:
            raise NotGranted(f"no bridges: {error}") from None
        self._networks.append(Network(name))
        return self._networks[-1]

    def host(self, name: str) -> Host:
        self.hosts.append(Host(self, name, self.base / "hosts" / name))
        return self.hosts[-1]

    def nat(
        self,
        name: str,
        inside: Network,
        inner: str,
        outside: Network,
        outer: str,
        *,
        random_ports: bool = False,
    ) -> Host:
        """A host that hides a network behind its own outer address."""
        host = self.host(name).plug(inside, inner).plug(outside, outer)
        return host.masquerade(outside, random_ports=random_ports)

    def wire(self, host: Host, network: Network) -> None:
        """From a host to a switch."""
        self._ports += 1
        port = f"port{self._ports}"
        try:
            self.ip(
                self._path,
                [
                    f"link add {port} type veth peer name {network.name} netns {host.path}",
                    f"link set {port} master {network.name} up",
                ],
            )
        except AssertionError as error:
            raise NotGranted(f"no wires (veth): {error}") from None

    def ip(self, namespace: str, commands: list[str] | tuple[str, ...]) -> None:
        done = subprocess.run(
            ["nsenter", f"--net={namespace}", "ip", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"ip {'; '.join(commands)}: {done.stderr.strip()}")

    def close(self) -> None:
        for node in self.nodes:
            if node.alive and node.process is not None:
                node.process.terminate()
        for node in self.nodes:
            try:
                if node.process is not None:
                    node.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            node.end_whatever_is_left()
        for host in self.hosts:
            host.close()
        self.hosts.clear()
        os.close(self._room)


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
