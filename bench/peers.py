"""The peers, started by hand on loopback with their data in a temporary folder, and ended by pid."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.nodes import HOST, end_with_parent, free_port

START_S = 20


@dataclass
class EtcdMember:
    name: str
    client_port: int
    peer_port: int

    @property
    def client_url(self) -> str:
        return f"http://{HOST}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.peer_port}"

    def ask(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """One question to the JSON gateway."""
        connection = http.client.HTTPConnection(HOST, self.client_port, timeout=5)
        try:
            connection.request("POST", path, body=json.dumps(document))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def leads(self) -> bool:
        try:
            status = self.ask("/v3/maintenance/status", {})
        except (OSError, ValueError, http.client.HTTPException):
            return False
        return "leader" in status and status["leader"] == status["header"]["member_id"]

    def serves(self) -> bool:
        """Whether it knows a leader, as a member that has joined again does."""
        try:
            return self.ask("/v3/maintenance/status", {}).get("leader", "0") != "0"
        except (OSError, ValueError, http.client.HTTPException):
            return False


def etcd_available() -> bool:
    return shutil.which("etcd") is not None


@contextmanager
def etcd(folder: Path, size: int) -> Iterator[EtcdMember]:
    """A cluster of etcd members with their own defaults; yields the leader."""
    members = [EtcdMember(f"m{i}", free_port(), free_port()) for i in range(size)]
    initial = ",".join(f"{member.name}={member.peer_url}" for member in members)
    processes = []
    try:
        for member in members:
            log_file = open(folder / f"etcd-{size}-{member.name}.log", "wb")  # noqa: SIM115 (the child's)
            with log_file:
                processes.append(
                    subprocess.Popen(
                        etcd_command(folder, size, member, initial),
                        stdout=log_file,
                        stderr=log_file,
                        preexec_fn=end_with_parent,
                    )
                )
        yield await_leader(members)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def etcd_command(folder: Path, size: int, member: EtcdMember, initial: str) -> list[str]:
    return [
        "etcd",
        f"--name={member.name}",
        f"--data-dir={folder / f'etcd-{size}-{member.name}'}",
        f"--listen-client-urls={member.client_url}",
        f"--advertise-client-urls={member.client_url}",
        f"--listen-peer-urls={member.peer_url}",
        f"--initial-advertise-peer-urls={member.peer_url}",
        f"--initial-cluster={initial}",
        "--initial-cluster-state=new",
        "--log-level=error",
    ]


def await_leader(members: list[EtcdMember]) -> EtcdMember:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for member in members:
            if member.leads():
                return member
        time.sleep(0.05)
    raise RuntimeError("etcd has no leader")
