"""`aspen cluster profile` of a node that is busy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clients import HOST
from cluster import COOKIE, Cluster, NodeProcess
from ports import free_port
from processes import wait_until
from typer.testing import CliRunner, Result

from aspen.cli.common import Exit
from aspen.cli.main import app
from aspen.config import ClusterBootstrapConfig, DnsServerConfig
from aspen.identity import Cookies, Identity
from aspen.net.address_book import AddressBook
from aspen.net.endpoint import ALPN_PROFILE, Endpoint, Hello, Service
from aspen.net.handshake import INCARNATION_BYTES
from aspen.node import Node, bootstrap_node
from aspen.node.node import PROTOCOL_VERSION

PATH = "/v1/cluster/profile"


def test_a_busy_node_says_what_it_does(tmp_path: Path, single: Cluster) -> None:
    node = single.nodes[0]
    stopping = threading.Event()

    def write() -> None:
        while not stopping.is_set():
            node.request("PUT", "/v1/kv/busy", b"x" * 10_000)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    command = ["cluster", "profile", "--seconds", "2", "--addr", node.addr]

    def take(seconds: float) -> int:
        return node.request("POST", PATH, b'{"seconds": %g}' % seconds, timeout_s=30).status

    first = threading.Thread(target=lambda: wait_until(lambda: take(3) == 200, "a profile", 60))
    try:
        first.start()
        wait_until(lambda: take(0.1) == 503, "another is refused meanwhile", 60)
        first.join()
        done = CliRunner().invoke(app, [*command, "--json", "--flame", str(tmp_path / "node.svg")])
        text = CliRunner().invoke(app, [*command, "--seconds", "1", "--flame", str(tmp_path / "node.folded")])
    finally:
        stopping.set()
        for writer in writers:
            writer.join()
    assert done.exit_code == text.exit_code == Exit.OK, done.stderr + text.stderr
    told = json.loads(done.stdout)
    assert told["samples"] > 0
    assert told["parts"].get("lmdb", 0) + told["parts"].get("http", 0) > 0
    assert {"node", "worker 1"} <= told["cpu"].keys()
    assert told["cpu"]["node"] > 0
    assert (tmp_path / "node.svg").read_text().startswith("<svg")
    stack, _, count = (tmp_path / "node.folded").read_text().splitlines()[0].rpartition(" ")
    assert ":" in stack
    assert int(count) > 0
    assert "with callees" in text.stdout
    assert node.request("POST", PATH, b'{"seconds": 61}').status == 400


def test_any_member_is_looked_at_through_any_other(cluster: Cluster) -> None:
    asked, other, _ = cluster.nodes

    def profile(of: int, *more: str) -> Result:
        command = [
            "cluster",
            "profile",
            "--seconds",
            "0.5",
            "--addr",
            asked.addr,
            "--node",
            str(of),
            "--json",
        ]
        return CliRunner().invoke(app, [*command, *more])

    def cpu_s(node: NodeProcess) -> float:
        fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    other_before_s = cpu_s(other)
    told = json.loads(profile(other.node_id).stdout)
    assert told["seconds"] >= 0.5
    assert {"node", "worker 1"} <= told["cpu"].keys()
    assert told["cpu"]["node"] <= cpu_s(other) - other_before_s + 0.02  # the other's, not the own
    assert any("aspen.node" in stack or "asyncio" in stack for stack in told["stacks"])
    assert json.loads(profile(asked.node_id).stdout)["seconds"] >= 0.5
    assert "aspen-profile/1" not in asked.request("GET", "/metrics").body.decode()  # it has hung up

    # One at a time, whoever asks; and the node asked for says so.
    busy = threading.Thread(target=lambda: other.request("POST", PATH, b'{"seconds": 4}', timeout_s=60))
    busy.start()
    body = b'{"seconds": 0.1, "node_id": %d}' % other.node_id
    wait_until(lambda: asked.request("POST", PATH, body, timeout_s=30).status == 503, "it is busy", 30)
    busy.join()

    stranger = profile(99)
    assert stranger.exit_code == Exit.NOT_FOUND
    assert "node 99 is not a member" in stranger.stderr
    other.kill()
    gone = profile(other.node_id)
    assert gone.exit_code == Exit.UNAVAILABLE
    assert f"no profile of node {other.node_id}: " in gone.stderr


async def test_who_knows_the_cookie_and_is_no_member_is_not_told(tmp_path: Path) -> None:
    config = ClusterBootstrapConfig(
        node_id=1,
        data_dir=tmp_path,
        cookie=COOKIE,
        init=True,
        host=HOST,
        dns_port=free_port(),
        http_addr=f"{HOST}:{free_port()}",
        quic_port=free_port(),
        profile="lan",
    )
    async with await bootstrap_node(config) as node:
        hello = Hello(PROTOCOL_VERSION, node.consensus.cluster_id, 2, bytes(INCARNATION_BYTES))
        stranger = Endpoint(
            identity=Identity.generate(),
            cookies=Cookies.of([COOKIE]),
            services=[Service(alpn=ALPN_PROFILE, hello=lambda: hello, admit=lambda _: None)],
            address_book=AddressBook(),
        )
        stranger.address_book.add(node.identity.endpoint_id, node.quic_address, "test")
        await stranger.start(HOST, 0)
        try:
            opening = stranger.channel(ALPN_PROFILE).open_stream(node.identity.endpoint_id)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(opening, 30)
            assert stranger.refusals["not_admitted"] == 1
        finally:
            await stranger.close()


async def test_who_was_removed_is_not_told_by_the_connection_it_has(tmp_path: Path) -> None:
    def config(node_id: int, **more: Any) -> ClusterBootstrapConfig:
        return ClusterBootstrapConfig(
            node_id=node_id,
            data_dir=tmp_path / str(node_id),
            cookie=COOKIE,
            host=HOST,
            http_addr=f"{HOST}:0",
            quic_port=0,
            profile="lan",
            dns_server=DnsServerConfig(enable=False),
            **more,
        )

    async def until_member(node: Node) -> None:
        while not node.consensus.roster.members:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0.02)

    async with asyncio.timeout(60), await bootstrap_node(config(1, init=True)) as member:
        await until_member(member)
        ticket = member.discovery.ticket()
        async with await bootstrap_node(config(2, ticket=ticket, learner=True)) as former:
            await until_member(former)
            stream = await former._endpoint.channel(ALPN_PROFILE).open_stream(member.identity.endpoint_id)
            await member.control.remove(2)
            told = None
            with contextlib.suppress(ConnectionError):
                await stream.send(msgspec.msgpack.encode([0.1]))
                told = await stream.receive()
            assert told is None
