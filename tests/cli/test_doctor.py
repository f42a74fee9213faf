"""`aspen doctor`: each check, and the fault that makes it speak."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from aspen.cli import doctor_machine as machine
from aspen.cli.doctor import is_stranger
from aspen.cli.doctor_node import node_findings
from aspen.cli.doctor_outside import clock_difference_ms, outside_findings
from aspen.cli.findings import Finding
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.identity import Cookies, Identity
from aspen.relay.access import COOKIE_CONTEXT, Access
from aspen.relay.hub import RelayLimits
from aspen.relay.standalone import StandaloneRelay

Aspen = Callable[..., Result]
UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM


def config(tmp_path: Path, **settings: Any) -> ClusterBootstrapConfig:
    return ClusterBootstrapConfig(
        **{
            "node_id": 1,
            "cookie": "correct horse battery",
            "data_dir": tmp_path / "node",
            "http_addr": "127.0.0.1:0",
            "dns_port": 0,
            "quic_port": 0,
            **settings,
        }
    )


# --- this machine -----------------------------------------------------------------------------


def test_a_new_node_on_a_good_machine(tmp_path: Path) -> None:
    findings = list(machine.machine_findings(config(tmp_path), running=False))
    assert {f.topic for f in findings} >= {"data directory", "identity", "disk", "ports"}
    assert [f for f in findings if f.level == "problem" and f.topic != "disk"] == []


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_a_port_that_is_taken_names_who_has_it(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is TCP:
            taken.listen()
        number = taken.getsockname()[1]
        found = machine.port(machine.Wanted("DNS", "dns_port", "127.0.0.1", number, kind))
    assert found.level == "problem"
    assert f"taken by process {os.getpid()} (" in found.says
    assert "dns_port" in found.do


def test_a_port_that_needs_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_self: object, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(machine.socket.socket, "bind", denied)
    found = machine.port(machine.Wanted("DNS", "dns_port", "127.0.0.1", 53, UDP))
    assert found.level == "problem"
    assert "CAP_NET_BIND_SERVICE" in found.do


def test_an_address_of_another_machine() -> None:
    found = machine.port(machine.Wanted("QUIC", "quic_port", "192.0.2.1", 0, UDP))
    assert found.level == "problem"
    assert "ip address" in found.do


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_of_somebody_else_without_root(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir(mode=0o500)
    assert machine.data_directory(tmp_path / "node", running=False).level == "problem"


def test_a_data_directory_that_can_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    found = machine.data_directory(tmp_path / "node", running=False)
    assert (found.level, "chown" in found.do) == ("problem", True)
    found = machine.data_directory(tmp_path / "absent", running=False)
    assert (found.level, "create" in found.do) == ("problem", True)


def test_a_data_directory_that_another_process_has(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = machine.data_directory(tmp_path, running=False)
        assert found.level == "problem"
        assert "process 4711" in found.says
        assert machine.data_directory(tmp_path, running=True).level == "ok"
    assert machine.data_directory(tmp_path, running=False).level == "ok"


def test_an_identity_that_others_may_read_or_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "node" / "identity.key"
    identity = Identity.load_or_create(file)
    assert machine.identity_file(config(tmp_path)) == Finding("identity", "ok", f"endpoint id {identity.z32}")
    file.chmod(0o644)
    found = machine.identity_file(config(tmp_path))
    assert (found.level, found.do) == ("problem", f"chmod 600 {file}")
    file.write_text("not a key")
    assert "hexadecimal" in machine.identity_file(config(tmp_path)).says


@pytest.mark.parametrize(("used", "level"), [(79, "ok"), (81, "warning"), (95, "problem")])
def test_a_disk_that_fills(used: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, used, 100 - used))  # type: ignore[attr-defined]
    assert machine.disk(tmp_path).level == level


def test_a_machine_without_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(machine.socket.socket, "setsockopt", refused)
    found = machine.multicast("127.0.0.1")
    assert found.level == "warning"
    assert "5353" in found.do


# --- services outside -------------------------------------------------------------------------


@contextmanager
def web_service(status: int = 404, ahead_s: float = 0.0, put: int = 400) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.send_response_only(put)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def outside(tmp_path: Path, **iroh: Any) -> list[Finding]:
    found = asyncio.run(outside_findings(config(tmp_path, iroh=IrohConfig(**iroh))))
    return [finding for finding in found if finding.level != "skipped"]


def test_services_that_answer(tmp_path: Path) -> None:
    with web_service() as url:
        found = outside(
            tmp_path,
            enable_pkarr=True,
            pkarr_relay_url=f"{url}/pkarr",
            bootstrap_nodes=["localhost"],
        )
    assert [(f.topic, f.level) for f in found] == [("pkarr relay", "ok"), ("names", "ok")]


@pytest.mark.parametrize(
    ("cookie", "level", "says"),
    [
        ("correct horse battery", "ok", "lets in who knows the cookie"),
        ("another-cluster's cookie", "problem", "this relay is for others"),
    ],
)
async def test_a_relay_is_asked_whether_it_knows_the_cookie(
    cookie: str, level: str, says: str, tmp_path: Path
) -> None:
    access = Access(authenticators=Cookies.of([cookie]).authenticators(COOKIE_CONTEXT))
    relay = StandaloneRelay(access, RelayLimits(), None)
    await relay.start(("127.0.0.1", 0))
    try:
        url = f"http://127.0.0.1:{relay.address[1]}"
        found = await outside_findings(config(tmp_path, iroh=IrohConfig(relay_url=url)))
    finally:
        await relay.close()
    (finding,) = (finding for finding in found if finding.topic == "relay")
    assert finding.level == level
    assert says in finding.says


def test_a_web_server_is_no_relay(tmp_path: Path) -> None:
    with web_service() as url:
        (found,) = outside(tmp_path, relay_url=url)
    assert (found.topic, found.level) == ("relay", "problem")
    assert "is no relay" in found.says


@pytest.mark.parametrize(
    ("iroh", "topic", "level"),
    [
        ({"enable_pkarr": True, "pkarr_relay_url": "http://127.0.0.1:1/pkarr"}, "pkarr relay", "problem"),
        ({"relay_url": "http://127.0.0.1:1"}, "relay", "problem"),
        (
            {"enable_dns_discovery": True, "dns_discovery_url": "dns://127.0.0.1:1"},
            "DNS discovery",
            "problem",
        ),
        (
            {"enable_dns_discovery": True, "dns_discovery_url": "https://127.0.0.1:1"},
            "DNS discovery",
            "problem",
        ),
        ({"bootstrap_nodes": ["no-such-host.invalid"]}, "names", "warning"),
    ],
)
def test_services_that_do_not(
    iroh: dict[str, Any], topic: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.dns.client.DNS_ASK_MS", 200)
    (found,) = outside(tmp_path, **iroh)
    assert (found.topic, found.level) == (topic, level)
    assert found.do


def test_a_pkarr_relay_that_takes_no_packets(tmp_path: Path) -> None:
    with web_service(put=405) as url:
        (found,) = outside(tmp_path, enable_pkarr=True, pkarr_relay_url=url)
    assert (found.topic, found.level) == ("pkarr relay", "problem")
    assert "status 405" in found.says


def test_a_service_in_trouble(tmp_path: Path) -> None:
    with web_service(status=503) as url:
        (found,) = outside(tmp_path, relay_url=url)
    assert (found.topic, found.level) == ("relay", "problem")


@pytest.mark.parametrize(("ahead_s", "way"), [(-3_600, "ahead of"), (3_600, "behind")])
def test_a_clock_that_is_off_shows_in_the_answers_of_others(ahead_s: float, way: str, tmp_path: Path) -> None:
    with web_service(ahead_s=ahead_s) as url:
        (found,) = outside(tmp_path, relay_url=url)
    assert (found.topic, found.level) == ("clock", "problem")
    assert f"s {way} that of" in found.says
    assert "NTP" in found.do


def test_a_date_that_is_none() -> None:
    assert clock_difference_ms("", time.time) is None
    assert clock_difference_ms("Thu, 01 Jan 1970 00:00:10 GMT", lambda: 12.0) == 2_000


# --- a running node ---------------------------------------------------------------------------

STATUS = {
    "node_id": 1,
    "endpoint_id": "one",
    "members": [
        {"node_id": 1, "endpoint_id": "one", "addresses": []},
        {"node_id": 2, "endpoint_id": "two", "addresses": ["192.0.2.2:7300"]},
    ],
    "refusals": {},
}
TWO = {"endpoint_id": "two", "path": "direct", "connections": [{"rtt_ms": 1.5}], "addresses": []}
PEERS = {"neighbours": 1, "refused": {}, "peers": [TWO]}
HEALTH = {"checks": [{"name": "disk", "status": "healthy", "reason": ""}]}


def test_a_node_that_is_well() -> None:
    found = list(node_findings(STATUS, PEERS, HEALTH))
    assert {finding.level for finding in found} == {"ok"}
    assert "node 2 is reached: direct, 1.5 ms" in [finding.says for finding in found]


@pytest.mark.parametrize(
    ("status", "peers", "health", "topic", "level", "says"),
    [
        ({}, {"peers": []}, {}, "peers", "problem", "node 2 can't be reached at 192.0.2.2:7300"),
        ({}, {"peers": [{**TWO, "path": "none"}]}, {}, "peers", "problem", "no address is known"),
        ({}, {"neighbours": 0}, {}, "gossip", "warning", "gossips with nobody"),
        ({"refusals": {"wrong_cookie": 2}}, {}, {}, "refused", "problem", "another cookie"),
        ({"refusals": {"node_id_claimed": 2}}, {}, {}, "refused", "problem", "uses the node id of another"),
        ({"refusals": {"version": 1}}, {}, {}, "refused", "warning", "another version"),
        ({"refusals": {"foreign_cluster": 1}}, {}, {}, "refused", "warning", "of another cluster"),
        ({}, {"refused": {"future": 3}}, {}, "gossip", "warning", "a clock is ahead"),
        ({}, {"refused": {"stale": 3}}, {}, "gossip", "warning", "a clock is behind"),
        ({}, {}, {"clock": "degraded"}, "clock", "warning", "reason"),
        ({}, {}, {"disk": "unhealthy"}, "disk", "problem", "reason"),
        ({}, {}, {"leader": "degraded"}, "leader", "warning", "reason"),
    ],
)
def test_what_is_wrong_with_a_node(
    status: Any, peers: Any, health: dict[str, str], topic: str, level: str, says: str
) -> None:
    checks = [{"name": name, "status": state, "reason": "reason"} for name, state in health.items()]
    found = list(node_findings({**STATUS, **status}, {**PEERS, **peers}, {"checks": checks}))
    (wrong,) = [finding for finding in found if finding.level != "ok"]
    assert (wrong.topic, wrong.level) == (topic, level)
    assert says in wrong.says
    assert wrong.do


def test_another_node_at_this_ones_address(tmp_path: Path) -> None:
    own = Identity.load_or_create(tmp_path / "node" / "identity.key")
    assert is_stranger({"node_id": 1, "endpoint_id": own.z32}, config(tmp_path)) is None
    found = is_stranger({"node_id": 1, "endpoint_id": "another"}, config(tmp_path))
    assert found is not None
    assert found.level == "problem"


def test_a_node_that_was_removed_hears_that_and_no_riddles() -> None:
    refused = {"refusals": {"removed": 7}, "role": "removed"}
    checks = [{"name": name, "status": "unhealthy", "reason": "reason"} for name in ("membership", "replica")]
    found = list(node_findings({**STATUS, **refused}, {"peers": []}, {"checks": checks}))
    (wrong,) = [finding for finding in found if finding.level != "ok"]
    assert "was removed from its cluster" in wrong.says
    assert "aspen cluster join" in wrong.do


@pytest.mark.parametrize("names", [False, True])
def test_beside_a_node_that_runs_nobody_is_blamed_for_its_ports(
    names: bool, aspen: Aspen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers(*_: object, **__: object) -> tuple[dict[str, Any], list[Finding]]:
        return {"node_id": 1, "endpoint_id": "another"}, [Finding("node", "ok", "node 1 answers")]

    monkeypatch.setattr("aspen.cli.doctor._node", answers)
    monkeypatch.setenv("ASPEN_IROH_ENABLE_MDNS", "false")
    monkeypatch.chdir(tmp_path)
    if names:  # then another node than the one that is meant is in its place
        monkeypatch.setenv("ASPEN_DATA_DIR", str(tmp_path / "mine"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("ASPEN_HTTP_ADDR", f"127.0.0.1:{taken.getsockname()[1]}")
        told = json.loads(aspen("doctor", "--json").stdout)
    wrong = {finding["topic"] for finding in told["findings"] if finding["level"] == "problem"}
    assert {"node", "ports"} <= wrong if names else not wrong
    assert names or "this machine" in {finding["topic"] for finding in told["findings"]}


# --- the command ------------------------------------------------------------------------------


def test_the_command_without_a_node(aspen: Aspen, tmp_path: Path) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text(
        f'node_id = 1\ncookie = "correct horse battery"\ndata_dir = "{tmp_path}/node"\n'
        'http_addr = "127.0.0.1:1"\ndns_port = 0\nquic_port = 0\n[iroh]\nenable_mdns = false\n'
    )
    result = aspen("doctor", str(file), "--json")
    told = json.loads(result.stdout)
    wrong = [f for f in told["findings"] if f["level"] == "problem" and f["topic"] not in ("disk", "ports")]
    assert wrong == []
    assert {"topic": "multicast", "level": "skipped", "says": "iroh.enable_mdns is off", "do": None} in told[
        "findings"
    ]


def test_what_a_node_learnt_by_joining_counts(aspen: Aspen, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    joined = tmp_path / "node" / "joined.toml"
    joined.write_text('node_id = 4\ncookie = "told by the ticket"\n')
    file = tmp_path / "aspen.toml"
    file.write_text(f'data_dir = "{tmp_path}/node"\nhttp_addr = "127.0.0.1:1"\ndns_port = 0\nquic_port = 0\n')
    told = json.loads(aspen("doctor", str(file), "--json").stdout)
    assert not [f for f in told["findings"] if f["topic"] == "configuration" and f["level"] == "problem"]
    shown = json.loads(aspen("config", "show", str(file), "--json").stdout)
    assert shown["node_id"] == {"value": 4, "source": str(joined)}
    assert shown["cookie"] == {"value": "(secret)", "source": str(joined)}
    check = json.loads(aspen("config", "check", str(file), "--json").stdout)
    assert check["still_needed"] == []


def test_a_wrong_configuration_is_a_problem(aspen: Aspen, tmp_path: Path) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text("nod_id = 1\n")
    result = aspen("doctor", str(file), "--addr", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "✗ configuration" in result.stdout
    assert "did you mean node_id?" in result.stdout
    assert "2 problems" in result.stdout  # and no node is there, where one was said to be


def test_every_problem_comes_with_a_remedy(aspen: Aspen, tmp_path: Path) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text(f'cookie = "secret"\nheartbeat_interval_ms = 0\ndata_dir = "{tmp_path}/n"\n')
    result = aspen("doctor", str(file), "--json")
    findings = json.loads(result.stdout)["findings"]
    assert result.exit_code == 1
    assert len([f for f in findings if f["topic"] == "configuration"]) == 2
    assert all(f["do"] for f in findings if f["level"] in ("problem", "warning"))


def test_dns_server_off_needs_no_dns_port(tmp_path: Path) -> None:
    wanted = machine.wanted_ports(config(tmp_path, dns_server=DnsServerConfig(enable=False)))
    assert [one.what for one in wanted] == ["QUIC", "HTTP"]
