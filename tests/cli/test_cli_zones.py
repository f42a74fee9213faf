"""`aspen zone`, `aspen record` and `aspen dig`, against the real routes over a state in memory."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import Result

sys.path.insert(0, str(Path(__file__).parent))

from documented import blocks_for

from aspen.dns.lookup import View
from aspen.dns.origin import DnsSettings
from aspen.dns.stream import TcpServer
from aspen.dns.tsig_keys import TsigKeys
from aspen.dns.udp import InProcessUdp, bind_udp_and_tcp
from aspen.http.errors import json_response
from aspen.http.server import HttpServer
from aspen.http.zones import ZoneRoutes
from aspen.state.commands import Command, encode_command
from aspen.state.commands import Result as Applied
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.packets import LmdbRecords
from aspen.state.ports import Consistency, Freshness
from aspen.state.settings import LmdbSettings
from aspen.state.zones import LmdbZones

Aspen = Callable[..., Result]
CREATE = ("zone", "create", "example.com", "--ns", "ns1", "--record", "ns1 300 A 192.0.2.53")


class OneNode:
    """HTTP and DNS over a state machine in memory, in a thread of its own."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.zones = LmdbZones(self.store)
        self.index = 0
        self.url = self.dns = ""
        self._started, self._loop = threading.Event(), asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> OneNode:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        server = HttpServer(listen=("127.0.0.1", 0))
        ZoneRoutes(self, self.zones, TsigKeys(LmdbSettings(self.store))).add_routes(server.admin)
        server.admin.add("/v1/cluster/status", {"GET": self._status}, public=False)
        await server.start()
        self.url = f"http://127.0.0.1:{server.address[1]}"
        view = View.build(LmdbRecords(self.store), DnsSettings(origins=("aspen.test",)), self.zones)
        sockets, stream = bind_udp_and_tcp("127.0.0.1", 0, 1)
        udp, tcp = InProcessUdp(sockets, view), TcpServer(view)
        await udp.start()
        self.dns = f"127.0.0.1:{(await tcp.start_on(stream))[1]}"
        self._started.set()
        await self._ended.wait()
        await tcp.close()
        await udp.close()
        await server.close()

    async def _status(self, _request: web.BaseRequest, _rest: str) -> web.StreamResponse:
        return json_response({"dns": {"origins": [], "port": int(self.dns.rpartition(":")[2])}})

    async def propose(self, command: Command) -> Applied:
        self.index += 1
        with self.store.write() as txn:
            self.machine.begin(txn)
            result = self.machine.apply(txn, self.index, 1_000_000, encode_command(command))
            self.machine.end(txn)
        return result

    async def barrier(self, consistency: Consistency) -> None:
        pass

    def freshness(self) -> Freshness:
        return Freshness(self.index, 1, 0)


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[OneNode]:
    with OneNode() as node:
        monkeypatch.setenv("ASPEN_ADDR", node.url)
        yield node


def test_a_zone_is_created_configured_and_deleted(one: OneNode, aspen: Aspen) -> None:
    assert "created example.com." in aspen(*CREATE, "--transfer-acl", "192.0.2.0/24").stdout
    again = aspen(*CREATE)
    assert again.exit_code == 1
    assert "there is a zone of this name already" in again.stderr
    aspen("zone", "configure", "example.com", "--disable", "--transfer-acl", "", "--notify", "192.0.2.9")
    shown = json.loads(aspen("zone", "show", "example.com", "--json").stdout)
    assert shown["settings"]["enabled"] is False
    assert (shown["settings"]["transfer_acl"], shown["settings"]["notify"]) == ([], ["192.0.2.9"])
    assert "disabled" in aspen("zone", "list").stdout
    refused = aspen("zone", "configure", "example.com", "--update-acl", "nonsense", "--json")
    assert json.loads(refused.stderr)["error"] == "rule_broken"
    assert "deleted example.com. and its 3 records" in aspen("zone", "delete", "example.com").stdout
    for command in (("zone", "show"), ("zone", "delete"), ("zone", "export"), ("record", "list")):
        assert aspen(*command, "example.com").exit_code == 3
    assert json.loads(aspen("zone", "list", "--json").stdout) == {"zones": []}


def test_a_key_that_is_not_there_is_warned_of(one: OneNode, aspen: Aspen) -> None:
    assert aspen(*CREATE).stderr == ""
    told = aspen("zone", "configure", "example.com", "--update-key", "nobody")
    assert told.exit_code == 0
    assert "warning: zone example.com. names the TSIG key nobody., which is not there" in told.stderr
    assert "nobody." in aspen("zone", "show", "example.com").stderr


def test_international_names_become_a_labels(one: OneNode, aspen: Aspen) -> None:
    created = aspen(
        "zone", "create", "Bücher.test", "--ns", "ns1", "--record", "größe 60 CNAME ns1.bücher.test."
    )
    assert created.exit_code == 0, created.stderr
    assert "created xn--bcher-kva.test." in created.stdout
    assert "Bücher.test is written xn--bcher-kva.test in DNS" in created.stderr
    aspen("record", "set", "*.bücher.test", "MX", "10 post。bücher.test.")
    listed = aspen("record", "list", "bücher.test").stdout
    assert "xn--gre-6ka8i.xn--bcher-kva.test. 60 IN CNAME ns1.xn--bcher-kva.test." in listed
    assert "*.xn--bcher-kva.test. 3600 IN MX 10 post.xn--bcher-kva.test." in listed
    assert aspen("record", "set", "t.bücher.test", "TXT", '"ü"').exit_code == 0
    assert '"\\195\\188"' in aspen("record", "get", "t.bücher.test", "TXT").stdout
    asked = aspen("dig", "größe.bücher.test", "CNAME", "--short", "--server", one.dns)
    assert asked.stdout == "ns1.xn--bcher-kva.test.\n"
    none = aspen("zone", "create", "☃.test", "--ns", "ns1")
    assert none.exit_code == 2
    assert "can't be a name in DNS" in none.stderr


def test_a_name_that_lacks_its_final_dot_is_warned_of(one: OneNode, aspen: Aspen) -> None:
    told = aspen("zone", "create", "example.com", "--ns", "ns1.example.com", "--ns", "ns.example.com.")
    assert told.stderr == (
        "warning: ns1.example.com has no final dot, so it stands for ns1.example.com.example.com.; "
        "the name itself is ns1.example.com.\n"
    )
    told = aspen(
        "record", "set", "www.example.com", "MX", "10 mail.Example.com", "20 mail", "30 notexample.com"
    )
    assert told.exit_code == 0
    assert (
        told.stderr.count("warning") == told.stderr.count("it stands for mail.Example.com.example.com.") == 1
    )
    assert aspen("record", "set", "t.example.com", "TXT", "see example.com").stderr == ""
    told = aspen("record", "set", "t.example.com", "CNAME", "example.com.", "--zone", "example.com")
    assert "it stands for t.example.com.example.com." in told.stderr


def test_records_are_set_got_listed_and_deleted(one: OneNode, aspen: Aspen) -> None:
    aspen(*CREATE)
    done = aspen("record", "set", "www.example.com", "A", "192.0.2.1", "192.0.2.2", "--ttl", "300", "--json")
    assert json.loads(done.stdout) == {"zone": "example.com.", "serial": 2, "changed": 2}
    aspen("record", "set", "--add", "www.example.com", "A", "192.0.2.3", "--ttl", "300")
    aspen("record", "set", "--zone", "example.com", "@", "MX", "10 mail")
    got = aspen("record", "get", "www.example.com", "A")
    assert got.stdout.splitlines() == [f"www.example.com. 300 IN A 192.0.2.{i}" for i in (1, 2, 3)]
    assert "example.com. 3600 IN MX 10 mail.example.com." in aspen("record", "list", "example.com").stdout
    listed = json.loads(aspen("record", "list", "example.com", "--type", "MX", "--json").stdout)
    assert [record["data"] for record in listed["records"]] == [["10 mail.example.com."]]
    assert aspen("record", "delete", "www.example.com", "A", "192.0.2.3").exit_code == 0
    assert aspen("record", "delete", "www.example.com", "A", "192.0.2.3").exit_code == 3
    assert aspen("record", "delete", "www.example.com").exit_code == 0
    assert aspen("record", "get", "www.example.com").exit_code == 3
    assert aspen("record", "get", "www.example.org").exit_code == 3
    refused = aspen("record", "set", "example.com", "CNAME", "www")
    assert refused.exit_code == 1
    assert "the apex has SOA and NS" in refused.stderr
    assert "`example.com. 3600 IN CNAME www`" in refused.stderr


def test_a_master_file_goes_in_and_comes_out(one: OneNode, aspen: Aspen, tmp_path: Path) -> None:
    file, out = tmp_path / "in.db", tmp_path / "out.db"
    lines = ["$TTL 300", "@ SOA ns1 hostmaster 7 7200 900 1209600 300", "@ NS ns1", "ns1 A 192.0.2.53"]
    file.write_text("\n".join([*lines, *(f"h{i} A 192.0.2.1" for i in range(2_000)), ""]))
    done = aspen("zone", "import", "example.com", str(file))
    assert done.stdout == "imported 2003 records into example.com., serial 7\n"
    assert aspen("zone", "import", "example.com", str(file), "--no-replace").exit_code == 1
    assert aspen("zone", "export", "example.com", str(out)).exit_code == 0
    assert aspen("zone", "import", "example.com", str(out)).stdout.endswith("serial 8\n")
    exported = aspen("zone", "export", "example.com").stdout
    assert exported.replace(" 8 7200", " 7 7200") == out.read_text()
    file.write_text("\n".join([*lines, "x A 192.0.2"]))
    refused = aspen("zone", "import", "example.com", str(file))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "line 5: '192.0.2' is not an IPv4 address" in refused.stderr
    assert aspen("zone", "import", "example.com", str(tmp_path / "none")).exit_code == 2


def test_dig_asks_by_datagram_and_by_stream(one: OneNode, aspen: Aspen) -> None:
    aspen(*CREATE)
    data = [f'"{i:03}{"x" * 200}"' for i in range(20)]
    aspen("record", "set", "many.example.com", "TXT", *data)
    server = ("--server", one.dns)
    plain = aspen("dig", "ns1.example.com", "A", *server)
    assert ";; status: NOERROR, flags: qr aa" in plain.stdout
    assert "ns1.example.com. 300 IN A 192.0.2.53" in plain.stdout
    assert aspen("dig", "ns1.example.com", *server, "--short", "--tcp").stdout == "192.0.2.53\n"
    many = json.loads(aspen("dig", "many.example.com", "TXT", *server, "--json").stdout)
    assert len(many["answer"]) == 20
    missing = aspen("dig", "none.example.com", *server)
    assert missing.exit_code == 3
    assert "NXDOMAIN" in missing.stdout
    assert aspen("dig", "example.com", "AAAA", *server).exit_code == 3
    refused = aspen("dig", "example.org", *server)
    assert refused.exit_code == 1
    assert "extended error 20" in refused.stdout
    assert aspen("dig", "example.com", "NOPE", *server).exit_code == 2


def test_what_the_documentation_shows_works(
    request: pytest.FixtureRequest,
    one: OneNode,
    aspen: Aspen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks_for(request)["zones.md"] for line in block.splitlines()]
    assert len(lines) > 15
    for line in lines:
        program, *arguments = shlex.split(line)
        done = aspen(*arguments)
        assert (program, done.exit_code) == ("aspen", 0), f"{line}: {done.stderr}"
