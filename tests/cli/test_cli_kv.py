"""`aspen kv` against a real node: every command, streams, exit codes, completion in shells."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.cli.common import Exit
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig, Profile
from aspen.node import bootstrap_node

Aspen = Callable[..., Result]


@pytest.fixture(scope="module")
def addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One node in a thread."""
    found: list[str] = []
    started = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()

    async def live() -> None:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=tmp_path_factory.mktemp("kv") / "node",
            cookie="a-cookie-of-the-command-line-tests",
            http_addr="127.0.0.1:0",
            quic_port=0,
            profile=Profile.LAN,
            dns_server=DnsServerConfig(enable=False),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            host, port = node.quic_address
            await RaftControlClient(node).init(InitRequest([ClusterNode(1, f"{host}:{port}")]))
            found.append("http://{}:{}".format(*node.http.address))
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),), daemon=True)
    thread.start()
    assert started.wait(20)
    yield found[0]
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def kv(aspen: Aspen, addr: str, monkeypatch: pytest.MonkeyPatch) -> Aspen:
    """`aspen kv …` against an empty store."""
    monkeypatch.setenv("ASPEN_ADDR", addr)
    aspen("kv", "delete", "--prefix", "--all", "", "--addr", addr)

    def run(*arguments: str, stdin: bytes | None = None, code: int = 0) -> Result:
        result = aspen("kv", *arguments, stdin=stdin)
        assert result.exit_code == code, (result.output, result.stderr)
        return result

    return run


def test_compare_and_swap_and_its_exit_code(kv: Aspen) -> None:
    kv("put", "k", "1", "--if-revision", "0")
    kv("put", "k", "1", "--if-revision", "0", code=Exit.COMPARE_FAILED)
    assert "swapped" in kv("cas", "k", "1", "2").stdout
    failed = kv("cas", "k", "1", "3", "--json", code=Exit.COMPARE_FAILED)
    assert json.loads(failed.stderr)["error"] == "compare_failed"
    assert json.loads(failed.stderr)["current"]["value"] == "Mg=="
    assert "It is '2', last changed at revision" in kv("cas", "k", "1", "3", code=Exit.COMPARE_FAILED).stderr
    assert "There is no such key" in kv("cas", "none", "1", "3", code=Exit.COMPARE_FAILED).stderr
    assert "no lease" in kv("lease", "show", "999999", code=Exit.NOT_FOUND).stderr
    kv("cas", "k", "2", "-", stdin=b"\x00\xff")
    assert kv("get", "k", "-o", "-").stdout_bytes == b"\x00\xff"


def test_counting_up_and_once(kv: Aspen) -> None:
    assert kv("incr", "n").stdout == "1\n"
    assert kv("incr", "n", "--json", "--", "-5").exit_code == 0
    assert kv("incr", "n", "10", "--once", "cli-1").stdout == "6\n"
    assert kv("incr", "n", "10", "--once", "cli-1").stdout == "6\n"
    kv("put", "t", "text")
    assert "not a decimal" in kv("incr", "t", code=Exit.FAILED).stderr


def test_what_can_not_be_meant_is_refused(kv: Aspen, tmp_path: Path) -> None:
    kv("put", "k", "v")
    assert "--all" in kv("delete", "--prefix", "", code=Exit.USAGE).stderr
    kv("put", "k", "v", "--ttl", "inf", code=Exit.USAGE)
    kv("lease", "grant", "inf", code=Exit.USAGE)
    for line in ('{"key":"q","value":null}', '{"key":"q","value":{"a":1}}', '{"key":5,"value":"v"}'):
        (file := tmp_path / "lines").write_text(line + "\n")
        assert "is not text" in kv("import", str(file), code=Exit.USAGE).stderr
    for part in ("3", "null"):
        assert (
            "is not a list" in kv("txn", "-", stdin=b'{"compare":%s}' % part.encode(), code=Exit.USAGE).stderr
        )
    assert kv("get", "k").stdout == "v\n"


def test_of_several_nodes_the_next_is_asked_for_what_was_not_done(kv: Aspen, addr: str, node: Any) -> None:
    one_dead = ("--addr", "http://127.0.0.1:1", "--addr", addr)
    assert kv("put", "k", "1", *one_dead).output.startswith("stored at revision ")
    assert kv("get", "k", "--addr", f"http://127.0.0.1:1, {addr}").output == "1\n"
    node.problem = (503, {"error": "no_leader", "reason": "no leader is known"})
    both = ("--addr", f"{node.url},{addr}")
    assert kv("incr", "k", *both).output == "2\n"
    assert kv("scan", "--count", *both).output == "1\n"
    lease = kv("lease", "grant", "60", *both).output.strip()
    kv("lease", "revoke", lease, *both)
    assert len(node.requests) == 4
    kv("get", "k", "--addr", node.url, code=Exit.UNAVAILABLE)


def test_of_several_nodes_none_is_sent_what_another_may_have_done(kv: Aspen, addr: str, node: Any) -> None:
    both = ("--addr", node.url, "--addr", addr)
    node.problem = (0, "")  # it closes the connection, and what it did is anyone's guess
    for write in (("put", "k", "1"), ("incr", "k"), ("delete", "k"), ("delete", "--prefix", "k")):
        kv(*write, *both, code=Exit.OUTCOME_UNKNOWN)
    kv("lease", "grant", "60", *both, code=Exit.OUTCOME_UNKNOWN)
    kv("get", "k", *both, code=Exit.NOT_FOUND)  # a read is harmless
    assert kv("incr", "k", "--once", "several-1", *both).output == "1\n"
    assert kv("incr", "k", "--once", "several-1", *both).output == "1\n"
    kv("delete", "k", "--once", "several-2", *both)
    kv("delete", "--prefix", "k", "--once", "several-3", *both, code=Exit.USAGE)


def test_scans_of_all_shapes(kv: Aspen) -> None:
    for name in ("a", "b", "c", "d"):
        kv("put", name, name.upper())
    shown = json.loads(kv("scan", "--json", "--start", "b", "--end", "d").stdout)
    assert [(entry["key"], entry["value"]) for entry in shown["entries"]] == [("b", "B"), ("c", "C")]
    assert kv("scan", "--count").stdout == "4\n"
    every = json.loads(kv("scan", "--json", "--all", "--limit", "1", "--desc", "--keys-only").stdout)
    assert [entry["key"] for entry in every["entries"]] == ["d", "c", "b", "a"]
    revision = every["revision"]
    kv("delete", "a")
    assert kv("get", "a", "--revision", str(revision)).stdout == "A\n"
    assert "deleted 3 keys" in kv("delete", "--prefix", "--all", "").stdout


def test_transactions_come_from_files_and_standard_input(kv: Aspen, tmp_path: Path) -> None:
    txn = {
        "compare": [{"key": "a", "exists": False}],
        "success": [{"op": "put", "key": "a", "value_base64": "AP8="}],
        "failure": [{"op": "get", "key": "a"}],
    }
    file = tmp_path / "txn.json"
    file.write_text(json.dumps(txn))
    assert "succeeded" in kv("txn", str(file)).stdout
    again = kv("txn", "-", "--json", stdin=json.dumps(txn).encode(), code=Exit.COMPARE_FAILED)
    shown = json.loads(again.stdout)
    assert shown["succeeded"] is False
    assert shown["results"][0]["entry"]["value_base64"] == "AP8="
    for bad in (b"no json", b"[]", b'{"then": []}', b'{"success": [{"op": "put"}]}', b'{"success": [1]}'):
        kv("txn", stdin=bad, code=Exit.USAGE)
    kv("txn", stdin=b'{"success": [{"op": "put", "key": "a"}]}', code=Exit.FAILED)


def test_export_and_import_keep_every_byte(kv: Aspen, tmp_path: Path) -> None:
    lines = [json.dumps({"key": f"k{n}", "value": f"v{n}"}) for n in range(250)]
    lines += [json.dumps({"key_base64": "AP8=", "value_base64": "/wA="}), ""]
    assert kv("import", "-", stdin="\n".join(lines).encode()).stdout == "imported 251 keys\n"
    file = tmp_path / "all.jsonl"
    assert json.loads(kv("export", str(file), "--json").stdout) == {"exported": 251}
    kv("delete", "--prefix", "--all", "")
    kv("import", str(file))
    assert kv("export").stdout == file.read_text()
    bad = kv("import", "-", stdin=b'{"key": "a"}\n', code=Exit.USAGE)
    assert "line 1" in bad.stderr
    kv("import", str(tmp_path / "missing"), code=Exit.USAGE)


def test_a_watch_prints_changes_as_they_come(kv: Aspen) -> None:
    first = json.loads(kv("put", "w/a", "1", "--json").stdout)["revision"]
    kv("put", "other", "x")
    kv("delete", "w/a")
    plain = kv("watch", "--prefix", "w/", "--from", str(first), "--count", "2").stdout.splitlines()
    assert plain == [f"{first}  put     'w/a'  '1'", f"{first + 2}  delete  'w/a'"]
    shown = kv("watch", "--key", "w/a", "--from", str(first), "--count", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["type"] for line in shown] == ["put", "delete"]


def test_the_life_of_a_lease(kv: Aspen) -> None:
    lease = kv("lease", "grant", "30").stdout.strip()
    kv("put", "held", "", "--lease", lease)
    assert "1 keys" in kv("lease", "show", lease).stdout
    assert [one["keys"] for one in json.loads(kv("lease", "list", "--json").stdout)["leases"]] == [1]
    assert lease in kv("lease", "list").stdout
    assert kv("lease", "keep-alive", lease).stdout == "renewed for 30 s\n"
    assert "1 keys deleted" in kv("lease", "revoke", lease).stdout
    kv("get", "held", code=Exit.NOT_FOUND)
    gone = kv("lease", "show", lease, "--json", code=Exit.NOT_FOUND)
    assert json.loads(gone.stderr)["error"] == "lease_not_found"
    kv("put", "held", "", "--lease", lease, code=Exit.NOT_FOUND)
    kv("put", "short", "", "--ttl", "60")
    assert json.loads(kv("lease", "list", "--json").stdout)["leases"][0]["ttl_ms"] == 60_000


def test_shells_complete_commands() -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "_ASPEN_COMPLETE": "complete_bash",
        "COMP_WORDS": "aspen kv le",
        "COMP_CWORD": "2",
    }
    script = "import sys; sys.argv[0] = 'aspen'; from aspen.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == ["lease"]
    shown = subprocess.run(  # which shell asks is told by the processes above it
        ["bash", "-c", f"{sys.executable} -m aspen.cli.main --show-completion bash; exit $?"],
        env={"PATH": "/usr/bin:/bin", "SHELL": "/bin/bash", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "_ASPEN_COMPLETE" in shown.stdout


def test_a_program_without_an_event_loop(addr: str) -> None:
    from aspen.client import SyncClient
    from aspen.errors import ClientNotFound

    with SyncClient([addr], monotonic=True) as client:
        first = client.put(b"sync/k", b"1").revision
        assert client.get(b"sync/k", "stale").value == b"1"
        assert client.increment(b"sync/n", 2) == 2
        assert len(client.scan(b"sync/").entries) == 2
        changes = client.watch(b"sync/", start=first)
        assert [next(changes).changes[0].key for _ in range(2)] == [b"sync/k", b"sync/n"]
        changes.close()
        client.delete(b"sync/k")
        with pytest.raises(ClientNotFound):
            client.get(b"sync/k")
