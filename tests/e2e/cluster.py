"""Real nodes as real processes: started, killed, restarted, asked.

A `Cluster` is one to a few `NodeProcess`es on loopback, each with its data in a folder of its own.
Ports are picked below the range the kernel hands to outgoing connections, so that a node that was
killed finds its own still free. Each node runs in a session of its own: whatever it starts can be found
and, at the end, ended.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
from clients import HOST, Answer, Published, dns_query, http_request, texts
from ports import free_port
from processes import children, dns_workers, end_with_parent, resident_kib, session_members, wait_until

from aspen.identity import Identity
from aspen.state.store import Store

COOKIE = f"e2e-{secrets.token_hex(8)}-only-for-these-tests"  # others beside us are heard by multicast
ORIGINS = ("aspen.local", "example.test")
LOG_TAIL_BYTES = 12_000


class NodeProcess:
    """One `aspen node run`, with its ports, data directory and log."""

    def __init__(
        self,
        node_id: int,
        data_dir: Path,
        *,
        cookie: str = COOKIE,
        profile: str = "lan",
        workers: int = 1,
        identity: Identity | None = None,
        host: str = HOST,
    ) -> None:
        self.node_id = node_id
        self.host = host
        self.data_dir = data_dir
        self.cookie = cookie
        self.profile = profile
        self.workers = workers
        self.own_session = True
        """Whether all it starts can be found by its session. On a busy machine that has a price: the kernel
        schedules each session as a group of its own (sched(7), "autogroup")."""
        self.dns_port, self.http_port, self.quic_port = free_port(), free_port(), free_port()
        self.peers: list[str] = []
        self.init = False
        self.settings: dict[str, str] = {}
        """Further settings, as environment variables."""
        self.tree: Path | None = None
        """The source tree whose program this node runs, if it isn't this one."""
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None
        data_dir.mkdir(parents=True, exist_ok=True)
        key_file = data_dir / "identity.key"
        if identity is None:
            self.identity = Identity.load_or_create(key_file)
        else:
            identity.save(key_file)
            self.identity = identity

    def __repr__(self) -> str:
        return f"node {self.node_id}"

    @property
    def as_peer(self) -> str:
        return f"{self.node_id}@{self.identity.z32}@{self.host}:{self.quic_port}"

    @property
    def addr(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    # --- the process --------------------------------------------------------------------------

    def command(self) -> list[str]:
        arguments = ["node", "run", "--node-id", str(self.node_id), "--data-dir", str(self.data_dir)]
        arguments += [
            "--host",
            self.host,
            "--dns-port",
            str(self.dns_port),
            "--quic-port",
            str(self.quic_port),
        ]
        arguments += ["--http-addr", f"{self.host}:{self.http_port}", "--log-format", "json"]
        return [sys.executable, "-m", "aspen.cli.main", *arguments, *(["--init"] if self.init else [])]

    def environment(self) -> dict[str, str]:
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
        return inherited | {
            "ASPEN_COOKIE": self.cookie,
            "ASPEN_PROFILE": self.profile,
            "ASPEN_PEERS": ",".join(self.peers),
            "ASPEN_DNS_SERVER_ORIGINS": ",".join(ORIGINS),
            "ASPEN_DNS_SERVER_WORKERS": str(self.workers),
            # Clients of these tests are in a hurry, and not all of them come from loopback.
            "ASPEN_PKARR_PUTS_PER_ADDRESS": "0",
            "ASPEN_PKARR_GETS_PER_ADDRESS": "0",
            "ASPEN_PKARR_PUTS_PER_KEY": "0",
            "ASPEN_PKARR_PUTS_IN_ALL": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            **self.settings,
        }

    def start(self) -> None:
        assert not self.alive, f"{self} runs already"
        with open(self.log_path, "ab") as log_file:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.tree,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=self.own_session,
                preexec_fn=end_with_parent,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of the node process; its workers must notice by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    def end_whatever_is_left(self) -> None:
        if self.process is None:
            return
        if self.alive:
            self.kill()
        for pid in session_members(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def workers_alive(self) -> set[int]:
        return dns_workers(self.pid)

    def memory_kib(self) -> int:
        return sum(resident_kib(pid) for pid in {self.pid, *children(self.pid)})

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tables(self) -> dict[str, dict[bytes, bytes]]:
        """The replicated state as it lies in this node's LMDB, read beside the running node."""
        store = Store.open(self.data_dir, read_only=True)
        try:
            with store.read() as txn:
                return {
                    name: dict(txn.cursor(db=table))
                    for name, table in store.tables.items()
                    if name not in ("meta", "log")
                }
        finally:
            store.close()

    # --- what it says -------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        return http_request(self.http_port, method, path, body, headers, timeout_s, self.host)

    def put(self, packet: Published, timeout_s: float = 10.0) -> Answer:
        return self.request("PUT", packet.path, packet.payload, timeout_s=timeout_s)

    def stored(self, packet: Published) -> bool:
        """Whether this node's own replica holds exactly this packet."""
        answer = self.request("GET", packet.path)
        return answer.status == 200 and answer.body == packet.payload

    def dig(self, name: str, rtype: str = "TXT", *, tcp: bool = False) -> dns.message.Message:
        return dns_query(self.dns_port, name, rtype, tcp=tcp, host=self.host)

    def resolves(self, packet: Published) -> bool:
        """Whether this node's DNS answers with the packet's texts, in two seconds."""
        try:
            return texts(self.dig(packet.name())) == list(packet.texts)
        except dns.exception.Timeout:
            return False

    def status(self) -> dict[str, Any] | None:
        """The cluster as this node sees it; `None` while it doesn't answer."""
        try:
            answer = self.request("GET", "/v1/cluster/status", timeout_s=2.0)
        except (OSError, HTTPException):
            return None
        return answer.json if answer.status == 200 else None

    def ready(self) -> bool:
        try:
            return self.request("GET", "/readyz", timeout_s=2.0).status == 200
        except (OSError, HTTPException):
            return False

    def wait_answers(self, timeout_s: float = 60.0) -> None:
        """It is up, ready or not."""

        def answers() -> bool:
            try:
                return self.request("GET", "/healthz", timeout_s=2.0).status > 0
            except (OSError, HTTPException):
                return False

        wait_until(answers, f"{self} answers", timeout_s)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        def ready_or_dead() -> bool:
            assert self.alive, (
                f"{self} ended with {self.process and self.process.returncode}:\n{self.log()[-2_000:]}"
            )
            return self.ready()

        wait_until(ready_or_dead, f"{self} is ready", timeout_s)


def https_settings(node: NodeProcess, **more: str) -> dict[str, str]:
    """The environment of a node with every encrypted listener, on ports of its own."""
    https, dot, doq = (free_port() for _ in range(3))
    section = {"port": str(https), "dot_port": str(dot), "doq_port": str(doq), "host": "::", **more}
    prefix = "ASPEN_DNS_SERVER_HTTPS_CONFIG_"
    node.settings |= {prefix + name.upper(): value for name, value in section.items()}
    node.settings["ASPEN_DNS_SERVER_HOST"] = "::"
    return section


class Cluster:
    """Nodes that know each other. The first one founds the cluster."""

    def __init__(
        self,
        base: Path,
        size: int,
        *,
        profile: str = "lan",
        workers: int = 1,
        own_sessions: bool = True,
        found: bool = True,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.nodes = [
            NodeProcess(i, base / f"node-{i}", profile=profile, workers=workers) for i in range(1, size + 1)
        ]
        for node in self.nodes:
            node.own_session = own_sessions
            node.settings = dict(settings or {})
            node.peers = [other.as_peer for other in self.nodes if other is not node]
        self.nodes[0].init = found

    def __iter__(self) -> Iterator[NodeProcess]:
        return iter(self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        if self.nodes[0].init:
            self.wait_ready()
        else:
            for node in self.nodes:
                wait_until(node.status, f"{node} runs", 60.0)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Every node serves, and all agree on a leader that lives."""
        for node in self.nodes:
            node.wait_ready(timeout_s)
        self.leader(timeout_s)

    def restore(self) -> None:
        """Start whatever is down, and wait until all is well again."""
        for node in self.nodes:
            if not node.alive:
                node.start()
        self.wait_ready()

    @property
    def living(self) -> list[NodeProcess]:
        return [node for node in self.nodes if node.alive]

    def node(self, node_id: int) -> NodeProcess:
        return next(node for node in self.nodes if node.node_id == node_id)

    def leader(self, timeout_s: float = 30.0) -> NodeProcess:
        """The living leader that all living nodes agree on."""

        def agreed() -> NodeProcess | None:
            seen = {(status or {}).get("leader_id") for status in (node.status() for node in self.living)}
            if len(seen) != 1:
                return None
            return next((node for node in self.living if node.node_id in seen), None)

        return wait_until(agreed, "the living nodes agree on a leader", timeout_s)

    def followers(self) -> list[NodeProcess]:
        leader = self.leader()
        return [node for node in self.living if node is not leader]

    def wait_caught_up(self, timeout_s: float = 30.0) -> int:
        """Every living node has applied what is committed now; returns that index."""
        target = max((node.status() or {}).get("commit_index", 0) for node in self.living)
        for node in self.living:
            wait_until(
                lambda node=node: (node.status() or {}).get("applied_index", -1) >= target,
                f"{node} has applied up to {target}",
                timeout_s,
            )
        return target

    def wait_stored(self, packets: Sequence[Published], timeout_s: float = 30.0) -> None:
        """Every living node's replica holds every packet."""
        for node in self.living:
            missing = list(packets)

            def all_there(node: NodeProcess = node, missing: list[Published] = missing) -> bool:
                missing[:] = [packet for packet in missing if not node.stored(packet)]
                return not missing

            wait_until(all_there, f"{node} holds {len(packets)} packets", timeout_s)

    def wait_same_state(self) -> None:
        """Every node's tables are the same, byte for byte (nothing may be in flight)."""
        self.wait_caught_up()
        tables = [node.tables() for node in self.nodes]
        for node, found in zip(self.nodes, tables, strict=True):
            for name, rows in found.items():
                assert rows == tables[0][name], f"{name} of {node} differs from that of {self.nodes[0]}"

    def end(self) -> None:
        for node in self.living:
            node.process.terminate() if node.process else None
        for node in self.nodes:
            try:
                if node.process is not None:
                    node.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            node.end_whatever_is_left()


RUNNING: list[Cluster] = []
"""What a failing test's report takes its logs from."""


@contextmanager
def running(
    base: Path,
    size: int,
    *,
    profile: str = "lan",
    workers: int = 1,
    own_sessions: bool = True,
    found: bool = True,
    settings: dict[str, str] | None = None,
) -> Iterator[Cluster]:
    """A cluster for the length of a `with`; unless `found`, nodes that belong to none yet."""
    cluster = Cluster(
        base,
        size,
        profile=profile,
        workers=workers,
        own_sessions=own_sessions,
        found=found,
        settings=settings,
    )
    with started(cluster):
        yield cluster


@contextmanager
def started(cluster: Cluster) -> Iterator[None]:
    """A cluster's nodes run for the length of a `with`."""
    RUNNING.append(cluster)
    try:
        try:
            cluster.start()
        except AssertionError as error:
            for node in cluster:
                error.add_note(f"--- log of {node}\n{node.log()[-LOG_TAIL_BYTES:]}")
            raise
        yield
    finally:
        cluster.end()
        RUNNING.remove(cluster)
