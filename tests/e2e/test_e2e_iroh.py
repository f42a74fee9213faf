"""Two real iroh endpoints find each other through Aspen's DNS, knowing nothing but the endpoint id.

iroh's packages look ids up at `_iroh.<z32>.dns.iroh.link.` through the system's resolver. So all of this
runs in a network namespace, in which port 53 and `/etc/resolv.conf` are ours: a node whose origin is
`dns.iroh.link.`, and two endpoints without relays, from PyPI (`iroh`) and npm (`@number0/iroh`).
What the one that listens is reachable at, `aspen pkarr publish` publishes.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import npm
import pytest
from cluster import RUNNING, Cluster, NodeProcess
from processes import end_with_parent, wait_until

from aspen.identity import Identity

NPM_PACKAGE = "@number0/iroh@1.1.0"
HERE = Path(__file__).parent
ANSWER_S = 30.0
_INSIDE = """
set -e
ip link set lo up
mount --bind "$1" /etc/resolv.conf
echo ready
exec cat
"""


class Namespace:
    """A mount and a network namespace, held open by a process that waits in it."""

    def __init__(self, resolv_conf: Path) -> None:
        resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")
        reason = ""
        for user in ([], ["--user", "--map-root-user"]):
            command = ["unshare", *user, "--mount", "--net", "--propagation", "private", "sh", "-c", _INSIDE]
            try:
                self._holder = subprocess.Popen(
                    [*command, "sh", str(resolv_conf)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    preexec_fn=end_with_parent,
                )
            except FileNotFoundError:
                pytest.skip("unshare (util-linux) is not installed")
            self._user = bool(user)
            assert self._holder.stdout is not None
            if self._holder.stdout.readline() == b"ready\n":
                return
            _, said = self._holder.communicate()
            reason = said.decode().strip()
        pytest.skip(f"no namespaces here: {reason}")

    @property
    def enter(self) -> list[str]:
        """How a command begins that is to run inside."""
        user = ["--user", "--preserve-credentials"] if self._user else []
        return ["nsenter", f"--target={self._holder.pid}", *user, "--mount", "--net", "--"]

    def run(self, *command: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def aspen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "aspen.cli.main", *arguments)

    def close(self) -> None:
        self._holder.communicate(timeout=5)  # its input ends, and so does it


class NodeInside(NodeProcess):
    """A node in the namespace, on DNS's own port."""

    namespace: Namespace

    def command(self) -> list[str]:
        return [*self.namespace.enter, *super().command()]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, NodeInside]]:
    base = tmp_path_factory.mktemp("iroh")
    namespace = Namespace(base / "resolv.conf")
    node = NodeInside(1, base / "inside-1")
    node.namespace, node.init, node.dns_port = namespace, True, 53
    node.settings = {"ASPEN_DNS_SERVER_ORIGINS": "dns.iroh.link."}
    cluster = Cluster(base, 1)
    cluster.nodes = [node]
    RUNNING.append(cluster)  # a failure shows its log
    try:
        node.start()
        wait_until(
            lambda: namespace.run("curl", "-sf", f"{node.addr}/readyz").returncode == 0, "the node is ready"
        )
        yield namespace, node
    finally:
        cluster.end()
        RUNNING.remove(cluster)
        namespace.close()


@pytest.fixture(scope="module")
def endpoints() -> dict[str, list[str]]:
    """How the endpoint programs are started, by the package registry that they are from."""
    pytest.importorskip("iroh")
    script = str(HERE / "js" / "iroh_endpoint.mjs")
    return {
        "PyPI": [sys.executable, str(HERE / "iroh_endpoint.py")],
        "npm": ["node", script, str(npm.installed(NPM_PACKAGE))],
    }


class Listening:
    """An endpoint that listens, and what it says line by line."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=end_with_parent
        )

    def says(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        readable, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.process.kill()
            raise AssertionError(f"the endpoint said nothing: {self.process.stderr.read().decode()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def listening(namespace: Namespace, program: Sequence[str], key_file: Path) -> Iterator[Listening]:
    endpoint = Listening([*namespace.enter, *program, "serve", str(key_file)])
    try:
        yield endpoint
    finally:
        endpoint.process.kill()
        endpoint.process.communicate()


def connect(namespace: Namespace, program: Sequence[str], endpoint_id: str) -> dict[str, Any]:
    done = namespace.run(*program, "connect", endpoint_id, timeout_s=60.0)
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize(("listener", "dialler"), [("PyPI", "npm"), ("npm", "PyPI")])
def test_two_iroh_endpoints_connect_by_endpoint_id_alone(
    inside: tuple[Namespace, NodeInside],
    endpoints: dict[str, list[str]],
    tmp_path: Path,
    listener: str,
    dialler: str,
) -> None:
    namespace, node = inside
    key_file = tmp_path / "endpoint.key"
    identity = Identity.generate()
    identity.save(key_file)
    with listening(namespace, endpoints[listener], key_file) as endpoint:
        up = endpoint.says()
        assert up["id"] == identity.endpoint_id.hex()
        record = f'_iroh TXT "addr={up["bound"]}"'
        published = namespace.aspen("pkarr", "publish", "--key", str(key_file), "--addr", node.addr, record)
        assert published.returncode == 0, published.stderr

        said = connect(namespace, endpoints[dialler], up["id"])

        assert said.get("answer") == "heard: by id alone", said
        assert said["remote"] == up["id"]
        assert said["paths"]  # not always the address published: once connected, they tell each other of more
        assert endpoint.says() == {"heard": "by id alone", "remote": said["id"]}


@pytest.mark.parametrize("dialler", ["PyPI", "npm"])
def test_an_id_that_published_nothing_is_not_found(
    inside: tuple[Namespace, NodeInside], endpoints: dict[str, list[str]], dialler: str
) -> None:
    """So the connections above are Aspen's doing, and not some other way that endpoints find each other."""
    namespace, _ = inside
    said = connect(namespace, endpoints[dialler], Identity.generate().endpoint_id.hex())
    assert "answer" not in said
    assert said["error"]
