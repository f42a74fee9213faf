"""A node as a process: it keeps its data, guards it, minds its workers, and ends cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from clients import http_request, sign
from cluster import COOKIE, Cluster
from ports import free_ports_in_a_row
from processes import session_members, wait_until

from aspen.state.status_page import StatusPage

TOKEN = "e2e-token-0b1946ac92492d23"


def test_a_restarted_node_has_its_data(single: Cluster) -> None:
    (node,) = single
    packet = sign("kept=yes")
    assert node.put(packet).status == 204
    assert node.request("PUT", "/v1/kv/kept", b"yes").status in (200, 201, 204)
    assert node.stop() == 0
    single.restore()
    assert node.stored(packet)
    assert node.resolves(packet)
    got = node.request("GET", "/v1/kv/kept", headers={"Accept": "application/octet-stream"})
    assert got.body == b"yes"


def test_a_clean_stop_leaves_no_process(single: Cluster) -> None:
    (node,) = single
    session = node.pid
    assert node.workers_alive()
    assert node.stop() == 0
    wait_until(lambda: not session_members(session), "all of the node's processes have ended", timeout_s=30)


def test_a_second_start_is_refused_and_told_who_holds_the_data(single: Cluster) -> None:
    (node,) = single
    second = subprocess.run(
        node.command(),
        env=node.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert second.returncode != 0
    said = second.stderr + second.stdout
    assert str(node.pid) in said
    assert "Traceback" not in said
    assert node.alive
    assert node.ready()


def test_a_killed_worker_is_replaced(single: Cluster) -> None:
    (node,) = single
    packet = sign("answered=still")
    assert node.put(packet).status == 204
    (worker,) = node.workers_alive()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: node.workers_alive() - {worker}, "another worker has started", timeout_s=30)
    # dnspython waits two seconds: the queue of the socket outlived its worker.
    wait_until(lambda: node.resolves(packet), "the new worker answers", timeout_s=30)
    assert node.alive
    assert len(node.workers_alive()) == 1


def test_the_status_page_tells_what_the_workers_count(single: Cluster) -> None:
    (node,) = single
    page = StatusPage.open(node.data_dir / "status.page")
    try:
        assert page.worker_count == 1
        assert page.applied_index > 0
        generation = page.generation
        assert node.put(sign("moves=the generation")).status == 204
        wait_until(lambda: page.generation > generation, "the generation has moved")
    finally:
        page.close()


def test_ctrl_c_ends_a_whole_dev_cluster(tmp_path: Path) -> None:
    ports = {name: free_ports_in_a_row(3) for name in ("dns", "http", "quic")}
    log_path = tmp_path / "dev.log"
    data_dir = tmp_path / "dev"
    flags = ["--profile", "lan", "--data-dir", str(data_dir)]
    for name, port in ports.items():
        flags += [f"--{name}-port", str(port)]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
    with open(log_path, "wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "aspen.cli.main", "dev", "--nodes", "3", *flags],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
    nodes: list[int] = []

    def everything() -> set[int]:
        return set().union(*(session_members(leader) for leader in (process.pid, *nodes)))

    try:
        for i in range(3):
            wait_until(
                lambda i=i: _is_ready(ports["http"] + i), f"node {i + 1} of the dev cluster is ready", 30
            )
            nodes.append(int((data_dir / f"node-{i + 1}" / "node.pid").read_text()))
        packet = sign("dev=yes")
        assert http_request(ports["http"], "PUT", packet.path, packet.payload).status == 204
        # As a terminal does it: to every process of the foreground group.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 0, log_path.read_text()
        wait_until(lambda: not everything(), "no orphan is left", timeout_s=30)
        assert "Traceback" not in log_path.read_text()
    except AssertionError as error:
        error.add_note(log_path.read_text()[-8_000:])
        raise
    finally:
        for pid in everything():
            os.kill(pid, signal.SIGKILL)
        process.wait(5)


def _is_ready(port: int) -> bool:
    try:
        return http_request(port, "GET", "/readyz", timeout_s=2).status == 200
    except OSError:
        return False


def test_no_secret_is_in_any_log(cluster: Cluster, tmp_path: Path) -> None:
    """The logs of everything the shared cluster went through so far, at debug level for one more start."""
    node = cluster.nodes[2]
    node.kill()
    environment = node.environment() | {"ASPEN_LOG_LEVEL": "debug", "ASPEN_ADMIN_TOKEN": TOKEN}
    with open(node.log_path, "ab") as log_file:
        node.process = subprocess.Popen(
            node.command(),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
    node.wait_ready()
    node.request("GET", "/v1/kv/x", headers={"Authorization": f"Bearer {TOKEN}"})
    node.request("GET", "/v1/kv/x", headers={"Authorization": f"Bearer wrong-{TOKEN}"})
    assert node.put(sign("debug=on")).status in (204, 503)
    assert node.stop() == 0
    for each in cluster:
        text = each.log()
        assert text
        assert COOKIE not in text
        assert TOKEN not in text
        assert each.identity.seed.hex() not in text
        secret_key = (each.data_dir / "identity.key").read_text().strip()
        assert secret_key not in text
