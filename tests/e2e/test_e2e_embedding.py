"""A node inside a Python program, and the examples that show how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clients import HOST, dns_query, http_request, sign, texts
from cluster import COOKIE
from ports import free_port
from processes import children, dns_workers

from aspen.api import ClusterNode, InitRequest, KvClient, RaftControlClient, WriteCommand
from aspen.config import ClusterBootstrapConfig
from aspen.errors import ControlPlaneError, KeyValueStoreError
from aspen.node import bootstrap_node
from aspen.state.ports import Consistency

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def config_for(data_dir: Path) -> ClusterBootstrapConfig:
    return ClusterBootstrapConfig(
        node_id=1,
        data_dir=data_dir,
        cookie=COOKIE,
        dns_port=free_port(),
        http_addr=f"{HOST}:{free_port()}",
        quic_port=free_port(),
        profile="lan",
    )


async def test_a_node_inside_a_program_does_what_a_process_does(tmp_path: Path) -> None:
    import asyncio

    config = config_for(tmp_path / "node")
    before = children(os.getpid())
    async with await bootstrap_node(config) as node:
        control, kv = RaftControlClient(node), KvClient(node)
        with pytest.raises(ControlPlaneError.NotInitialized):
            await control.current_state()
        state = await control.init(InitRequest([ClusterNode(1, f"{HOST}:{config.quic_port}")]))
        assert (state.members, state.leader_id) == ((1,), 1)

        await kv.write(WriteCommand.Set("greeting", "hello"))
        for consistency in Consistency:
            assert (await kv.read("greeting", consistency)).value == b"hello"
        with pytest.raises(KeyValueStoreError.NotFound):
            await kv.read("absent")

        # The same node answers HTTP and DNS, UDP too, in this very process.
        packet = sign("embedded=yes")
        http_port = config.http_listen[1]
        stored = await asyncio.to_thread(http_request, http_port, "PUT", packet.path, packet.payload)
        assert stored.status == 204
        for tcp in (False, True):
            answer = await asyncio.to_thread(dns_query, config.dns_port, packet.name(), "TXT", tcp=tcp)
            assert texts(answer) == list(packet.texts)
        assert not dns_workers(os.getpid())
        assert children(os.getpid()) == before

    async with await bootstrap_node(config) as node:  # the same ports and folder are free again
        await RaftControlClient(node).current_state()
        assert (await KvClient(node).read("greeting")).value == b"hello"


async def test_a_taken_data_directory_is_refused_and_nothing_is_left_open(tmp_path: Path) -> None:
    from aspen.errors import AspenError

    config = config_for(tmp_path / "node")
    async with await bootstrap_node(config):
        other = config.replace(dns_port=free_port(), http_addr=f"{HOST}:{free_port()}", quic_port=free_port())
        with pytest.raises(AspenError, match=str(os.getpid())):
            await bootstrap_node(other)


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(example: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
    done = subprocess.run(
        [sys.executable, str(example)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
