"""Aspen under a systemd that really boots: ready when it answers, watched, killed, handed its sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import Machine, booted, install, why_not
from processes import wait_until

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"no boot of systemd here: {REASON}")

SERVICE = "aspen.service"
ENVIRONMENT = "ASPEN_COOKIE=7d1f0e6b2c9a48d5b3e0f1a2c3d4e5f6\n"
SETTINGS = 'node_id = 1\ninit = true\nprofile = "lan"\n'
IN_A_HURRY = "[Service]\nWatchdogSec=6\nTimeoutAbortSec=2\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    work = tmp_path_factory.mktemp("boot")
    installed = work / "installed"
    done = install(installed)
    if done.returncode and "connection" in done.stderr.lower():
        pytest.skip("no network to build the package")
    assert done.returncode == 0, done.stdout + done.stderr
    with booted(work, installed) as machine:
        machine.write("/etc/aspen/aspen.env", ENVIRONMENT)
        machine.write("/etc/aspen/aspen.toml", SETTINGS)
        machine.write("/etc/systemd/system/aspen.service.d/hurry.conf", IN_A_HURRY)
        machine.do("systemctl", "daemon-reload")
        machine.do("systemctl", "start", "aspen-dns.socket")
        yield machine


@pytest.fixture
def node(machine: Machine) -> Machine:
    """The service, started: this returns when systemd has heard that it is ready."""
    machine.run("systemctl", "reset-failed", SERVICE)
    machine.do("systemctl", "start", SERVICE)
    return machine


def asked(machine: Machine, *arguments: str) -> str:
    return machine.run(
        "dig", "@127.0.0.1", "+short", "+tries=1", "+time=20", *arguments, "version.bind", "CH", "TXT"
    ).stdout.strip()


def restarts(machine: Machine) -> int:
    return int(machine.show(SERVICE, "NRestarts"))


def worker_of(machine: Machine) -> str:
    return machine.do("pgrep", "--full", "aspen.dns.worker")


def wait_restarted(machine: Machine, before: int) -> None:
    def again() -> bool:
        return restarts(machine) > before and machine.show(SERVICE, "ActiveState") == "active"

    wait_until(again, "the service runs again", 60, 0.2)


def test_ready_means_that_dns_answers_at_port_53(node: Machine) -> None:
    assert asked(node) == '"Aspen"'
    assert asked(node, "+tcp") == '"Aspen"'
    status = node.show(SERVICE, "StatusText")
    assert status.startswith("node 1, leader, leader is node 1, term ")
    health = json.loads(node.do("/usr/local/bin/aspen", "health", "--json"))
    assert health["ready"] is True


def test_it_is_nobody_who_may_bind_low_ports_and_nothing_else(node: Machine) -> None:
    pid = node.show(SERVICE, "MainPID")
    status = node.status_of(pid)
    uid = node.do("id", "--user", "aspen")
    assert uid != "0"
    assert status["Uid"].split() == [uid] * 4
    only_bind_service = f"{1 << 10:016x}"
    assert status["CapEff"] == status["CapBnd"] == status["CapAmb"] == only_bind_service
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert (
        node.do("stat", "--format", "%U %a", "/var/lib/aspen", "/etc/aspen/aspen.env")
        == "aspen 700\nroot 640"
    )
    assert node.show(SERVICE, "LimitNOFILE") == "65536"
    secret = ENVIRONMENT.split("=")[1].strip()
    assert secret not in node.do("systemctl", "show", SERVICE)
    assert secret not in node.journal()


def test_killed_it_comes_back_and_queries_wait_for_it(node: Machine) -> None:
    """The socket is systemd's: what arrives while nobody listens is answered by the next process."""
    before = restarts(node)
    node.do("systemctl", "kill", "--signal", "KILL", SERVICE)
    assert asked(node) == '"Aspen"'  # one datagram, sent once
    wait_restarted(node, before)


def test_a_worker_that_stands_still_gets_the_node_started_again(node: Machine) -> None:
    before = restarts(node)
    node.do("kill", "-STOP", worker_of(node))
    wait_restarted(node, before)
    assert "no sign of life to the service manager" in node.journal()
    assert asked(node) == '"Aspen"'


def test_an_event_loop_that_stands_still_gets_the_node_started_again(node: Machine) -> None:
    before = restarts(node)
    node.do("kill", "-STOP", node.show(SERVICE, "MainPID"))
    wait_restarted(node, before)
    assert "Watchdog timeout" in node.journal()
    assert asked(node) == '"Aspen"'


def test_stopped_it_stays_stopped_and_keeps_its_data(node: Machine) -> None:
    command = ["/usr/local/bin/aspen", "kv"]
    node.do(*command, "put", "kept", "yes")
    node.do("systemctl", "stop", "aspen-dns.socket", SERVICE)
    assert node.show(SERVICE, "Result") == "success"
    assert node.show(SERVICE, "ActiveState") == "inactive"
    assert "node stopped" in node.journal()
    node.do("systemctl", "start", "aspen-dns.socket", SERVICE)
    assert node.do(*command, "get", "kept") == "yes"


def test_a_wrong_setting_is_said_once_and_not_tried_again(node: Machine) -> None:
    node.do("systemctl", "stop", "aspen-dns.socket", SERVICE)
    node.write("/etc/aspen/aspen.toml", SETTINGS + "no_such_setting = 1\n")
    try:
        assert node.run("systemctl", "start", SERVICE).returncode != 0
        wait_until(lambda: node.show(SERVICE, "ActiveState") == "failed", "it has failed", 30, 0.2)
        assert node.show(SERVICE, "ExecMainStatus") == "2"
        assert restarts(node) == 0
        assert "no_such_setting" in node.journal()
    finally:
        node.write("/etc/aspen/aspen.toml", SETTINGS)
        node.do("systemctl", "start", "aspen-dns.socket")


def test_several_nodes_by_instances(node: Machine) -> None:
    node.write("/etc/aspen/two.env", ENVIRONMENT)
    node.write(
        "/etc/aspen/two.toml",
        'node_id = 2\ninit = true\nquic_port = 7302\nhttp_addr = "127.0.0.1:8082"\ndns_port = 5302\n'
        "[iroh]\nenable_mdns = false\n",
    )
    node.do("systemctl", "start", "aspen@two.service")
    assert asked(node, "-p", "5302") == '"Aspen"'
    assert node.do("stat", "--format", "%U %a", "/var/lib/aspen/two") == "aspen 700"
    assert node.show("aspen@two.service", "StatusText").startswith("node 2, leader")
    assert asked(node) == '"Aspen"'
    node.do("systemctl", "stop", "aspen@two.service")


def test_encrypted_listeners_by_their_sockets(node: Machine, tmp_path: Path) -> None:
    sockets = ["aspen-https.socket", "aspen-dot.socket", "aspen-doq.socket"]
    node.do("systemctl", "stop", "aspen-dns.socket", SERVICE)
    node.write("/etc/aspen/aspen.toml", SETTINGS + '[dns_server.https_config]\ndomains = ["localhost"]\n')
    try:
        node.do("systemctl", "start", "aspen-dns.socket", *sockets, SERVICE)
        assert asked(node) == '"Aspen"'
        answer = node.do(
            "curl", "--silent", "--insecure", "https://127.0.0.1/healthz", "--write-out", "%{http_code}"
        )
        assert answer.endswith("200")
        assert "8443" not in node.do("ss", "--listening", "--numeric", "--tcp", "--udp")
        # DoT, spoken to as any TLS server is.
        node.do("sh", "-c", "openssl s_client -connect 127.0.0.1:853 -alpn dot </dev/null")
        # What was handed over for DoQ is read: nothing is left waiting in it.
        node.run("dig", "@127.0.0.1", "-p", "853", "+tries=1", "+time=1", "example.org")
        waiting = [
            line.split()[1]
            for line in node.do("ss", "--numeric", "--udp", "--all", "--no-header").splitlines()
            if line.split()[3].endswith(":853")
        ]
        assert waiting == ["0"]
    finally:
        node.write("/etc/aspen/aspen.toml", SETTINGS)
        node.do("systemctl", "stop", *sockets, SERVICE)
        node.do("systemctl", "start", "aspen-dns.socket")
