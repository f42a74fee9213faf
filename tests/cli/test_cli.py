"""The commands, against a stand-in for a node: results, JSON, exit codes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from aspen.identity import Identity
from aspen.pkarr.packet import SignedPacket

Aspen = Callable[..., Result]
COMMANDS = (
    "node run", "dev", "cluster status", "cluster init", "cluster add-learner", "cluster promote",
    "cluster remove", "cluster change-membership", "cluster transfer-leader", "cluster snapshot",
    "cluster check", "kv get", "kv put", "kv delete", "kv scan",
    "pkarr keygen", "pkarr show", "pkarr publish", "pkarr resolve", "config check",
)  # fmt: skip


def test_kv_as_a_person_uses_it(aspen: Aspen, node: Any) -> None:
    put = aspen("kv", "put", "greeting", "hello", "--addr", node.url)
    assert (put.exit_code, put.stdout) == (0, "stored at revision 1\n")
    assert aspen("kv", "get", "greeting", "--addr", node.url).stdout == "hello\n"
    table = aspen("kv", "scan", "--prefix", "g", "--addr", node.url).stdout
    assert "greeting" in table
    assert "hello" in table
    assert aspen("kv", "delete", "greeting", "--addr", node.url).exit_code == 0
    assert aspen("kv", "get", "greeting", "--addr", node.url).exit_code == 3
    assert aspen("kv", "delete", "greeting", "--addr", node.url).exit_code == 3


def test_kv_as_a_program_uses_it(aspen: Aspen, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASPEN_ADDR", node.url)
    assert json.loads(aspen("kv", "put", "k", "v", "--json").stdout)["revision"] == 1
    got = json.loads(aspen("kv", "get", "k", "--json").stdout)
    assert (got["key"], got["value"], got["value_base64"]) == ("k", "v", "dg==")
    scanned = json.loads(aspen("kv", "scan", "--json").stdout)
    assert [entry["key"] for entry in scanned["entries"]] == ["k"]
    assert scanned["more"] is False
    missing = aspen("kv", "get", "absent", "--json")
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert json.loads(missing.stderr)["error"] == "not_found"


def test_kv_carries_any_bytes(aspen: Aspen, node: Any, tmp_path: Path) -> None:
    data = bytes(range(256))
    assert aspen("kv", "put", "bin", "-", "--addr", node.url, stdin=data).exit_code == 0
    assert aspen("kv", "get", "bin", "-o", "-", "--addr", node.url).stdout_bytes == data
    file = tmp_path / "value"
    assert aspen("kv", "get", "bin", "-o", str(file), "--addr", node.url).exit_code == 0
    assert file.read_bytes() == data
    got = json.loads(aspen("kv", "get", "bin", "--json", "--addr", node.url).stdout)
    assert got["value"] is None
    assert aspen("kv", "scan", "--addr", node.url).exit_code == 0


@pytest.mark.parametrize("key", ["a/b c?d#e&f=g%2Fh+i", "..", ".", "ключ", "\udcff\udc80"])
def test_kv_keys_of_every_kind(key: str, aspen: Aspen, node: Any) -> None:
    assert aspen("kv", "put", "--addr", node.url, "--", key, "v").exit_code == 0
    assert list(node.kv) == [os.fsencode(key)]
    assert aspen("kv", "get", "--addr", node.url, "--", key).stdout == "v\n"
    assert aspen("kv", "scan", "--prefix", key, "--addr", node.url).exit_code == 0


def test_a_scan_goes_on_until_there_is_no_more(aspen: Aspen, node: Any) -> None:
    node.kv.update({b"k%d" % n: b"v" for n in range(5)})
    node.page_size = 2
    first = json.loads(aspen("kv", "scan", "--json", "--addr", node.url).stdout)
    assert (len(first["entries"]), first["more"]) == (2, True)
    assert "There are more" in aspen("kv", "scan", "--addr", node.url).stdout
    every = json.loads(aspen("kv", "scan", "--all", "--json", "--addr", node.url).stdout)
    assert [entry["key"] for entry in every["entries"]] == ["k0", "k1", "k2", "k3", "k4"]
    rest = json.loads(aspen("kv", "scan", "--after", "k3", "--json", "--addr", node.url).stdout)
    assert [entry["key"] for entry in rest["entries"]] == ["k4"]


def test_stored_data_cannot_drive_the_terminal(aspen: Aspen, node: Any) -> None:
    node.kv[b"k"] = b"\x1b]0;title\x07 [bold]x[/bold]"
    shown = aspen("kv", "scan", "--addr", node.url).stdout
    assert "\x1b" not in shown
    assert "[bold]x[/bold]" in shown


def test_cluster_status(aspen: Aspen, node: Any) -> None:
    text = aspen("cluster", "status", "--addr", node.url).stdout
    assert "leader is node 1" in text
    assert "voter, leader" in text
    assert "127.0.0.1:7301" in text
    answer = json.loads(aspen("cluster", "status", "--json", "--addr", node.url).stdout)
    assert {"node_id", "leader_id", "term", "commit_index", "applied_index", "members"} <= answer.keys()


@pytest.mark.parametrize(
    ("status", "body", "read_code", "write_code"),
    [
        (503, {"error": "no_leader", "reason": "no leader is known"}, 4, 4),
        (503, {"error": "overloaded", "reason": "too many writes"}, 4, 4),
        (503, {"error": "outcome_unknown", "reason": "not committed in time"}, 5, 5),
        (500, {"error": "internal", "reason": "a bug"}, 4, 5),
        (502, "<html>", 4, 5),
        (0, "", 4, 5),
        (400, {"error": "key_too_large", "reason": "too large"}, 1, 1),
        (200, "not json", 1, 1),
        (301, "", 1, 1),
    ],
)
def test_exit_codes_say_what_became_of_it(
    status: int, body: Any, read_code: int, write_code: int, aspen: Aspen, node: Any
) -> None:
    node.problem = (status, body)
    read = aspen("kv", "get", "k", "--addr", node.url)
    write = aspen("kv", "put", "k", "v", "--addr", node.url)
    assert (read.exit_code, write.exit_code) == (read_code, write_code)
    assert read.stderr.startswith("aspen: ")
    assert "Traceback" not in read.stderr + write.stderr


def test_nobody_answers(aspen: Aspen) -> None:
    result = aspen("kv", "put", "k", "v", "--addr", "127.0.0.1:1")
    assert result.exit_code == 4
    assert "aspen dev" in result.stderr


@pytest.mark.parametrize("addr", ["ftp://x", "http://", "http://x:99999"])
def test_an_address_that_is_none(addr: str, aspen: Aspen) -> None:
    assert aspen("cluster", "status", "--addr", addr).exit_code == 2


def test_the_token_is_sent_and_asked_for(aspen: Aspen, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node.token = "let-me-in-please"
    refused = aspen("cluster", "status", "--addr", node.url)
    assert refused.exit_code == 1
    assert "--token" in refused.stderr
    assert aspen("cluster", "status", "--addr", node.url, "--token", node.token).exit_code == 0
    monkeypatch.setenv("ASPEN_ADMIN_TOKEN", node.token)
    assert aspen("cluster", "status", "--addr", node.url).exit_code == 0
    assert node.token not in aspen("cluster", "status", "--help").stdout


def test_publish_and_resolve(aspen: Aspen, node: Any, tmp_path: Path) -> None:
    key = tmp_path / "alice.key"
    record = '_iroh TXT "relay=https://relay.example./"'
    published = aspen("pkarr", "publish", "--key", str(key), record, "--addr", node.url)
    assert published.exit_code == 0, published.stderr
    identity = Identity.load(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert str(key) in published.stderr
    assert f"dig @127.0.0.1 -p 5353 _iroh.{identity.z32}.example.test TXT" in published.stdout
    SignedPacket.parse(identity.endpoint_id, node.packets[identity.z32])

    again = aspen("pkarr", "publish", "--key", str(key), record, "--addr", node.url, "--json")
    assert json.loads(again.stdout)["public_key"] == identity.z32
    resolved = aspen("pkarr", "resolve", identity.z32, "--addr", node.url)
    assert "relay=https://relay.example./" in resolved.stdout
    assert "verified" in resolved.stdout
    assert "\\t" not in resolved.stdout
    answer = json.loads(aspen("pkarr", "resolve", identity.z32, "--addr", node.url, "--json").stdout)
    assert len(answer["records"]) == 1
    assert aspen("pkarr", "show", str(key)).stdout == f"{identity.z32}\n"


def test_publish_to_a_file(aspen: Aspen, tmp_path: Path) -> None:
    key, out = tmp_path / "k.key", tmp_path / "packet"
    result = aspen("pkarr", "publish", "--key", str(key), "@ A 192.0.2.1", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert f"--data-binary @{out}" in result.stdout
    z32 = Identity.load(key).z32
    same = aspen("pkarr", "publish", "--key", str(key), "@ 60 IN A 192.0.2.1", "--out", str(out), "--json")
    assert json.loads(same.stdout)["dig"] == f"dig @127.0.0.1 -p 5300 {z32}.aspen.local A"
    SignedPacket.parse(Identity.load(key).endpoint_id, out.read_bytes())


def test_resolve_finds_nothing_or_a_forgery(aspen: Aspen, node: Any) -> None:
    z32 = Identity.from_seed(b"\1" * 32).z32
    assert aspen("pkarr", "resolve", z32, "--addr", node.url).exit_code == 3
    assert aspen("pkarr", "resolve", "short", "--addr", node.url).exit_code == 2
    node.packets[z32] = b"\0" * 100
    assert aspen("pkarr", "resolve", z32, "--addr", node.url).exit_code != 0


def test_a_record_that_is_none_makes_no_key(aspen: Aspen, tmp_path: Path) -> None:
    key = tmp_path / "k.key"
    result = aspen("pkarr", "publish", "--key", str(key), "this is no record")
    assert result.exit_code == 2
    assert not key.exists()


def test_keygen_never_overwrites(aspen: Aspen, tmp_path: Path) -> None:
    key = tmp_path / "k.key"
    made = aspen("pkarr", "keygen", str(key), "--json")
    assert json.loads(made.stdout)["public_key"] == Identity.load(key).z32
    before = key.read_bytes()
    again = aspen("pkarr", "keygen", str(key))
    assert again.exit_code == 1
    assert key.read_bytes() == before
    assert aspen("pkarr", "show", str(tmp_path / "absent")).exit_code == 2


def test_config_check(aspen: Aspen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "aspen.toml"
    file.write_text(
        'quic_port = 7311\ncookie = "hunter22hunter22"\n[iroh]\ndns_discovery_url = "dns://127.0.0.1"\n'
    )
    result = aspen("config", "check", str(file))
    assert result.exit_code == 0
    assert "7311" in result.stdout
    assert "still needed to start a node: node_id" in result.stdout
    assert "iroh.dns_discovery_url has no effect" in result.stdout
    assert "hunter22" not in result.stdout
    answer = json.loads(aspen("config", "check", "--config", str(file), "--json").stdout)
    assert answer["settings"]["quic_port"]["value"] == 7311
    assert answer["still_needed"] == ["node_id"]
    file.write_text('auto_cluster = 3\ncookie = "hunter22hunter22"\n')  # it is given its id
    assert json.loads(aspen("config", "check", str(file), "--json").stdout)["still_needed"] == []
    file.write_text("quic_prot = 7311\n")
    wrong = aspen("config", "check", str(file))
    assert wrong.exit_code == 2
    assert "quic_prot" in wrong.stderr


def test_a_node_that_cannot_be_configured_does_not_start(aspen: Aspen, tmp_path: Path) -> None:
    result = aspen("node", "run", "--data-dir", str(tmp_path / "n"))
    assert result.exit_code == 2
    assert "node_id" in result.stderr
    assert "cookie" in result.stderr
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, aspen: Aspen) -> None:
    result = aspen(*command.split(), "--help")
    assert result.exit_code == 0
    if command not in ("node run", "dev"):
        assert "--json" in result.stdout
    if command.split()[0] in ("kv", "cluster"):
        assert {"--addr", "--token"} <= set(result.stdout.split())


def test_exit_codes_are_documented(aspen: Aspen) -> None:
    for command in ((), ("kv",), ("node", "run"), ("dev",)):
        assert "5 a write was sent" in " ".join(aspen(*command, "--help").stdout.split())


def test_every_node_flag_of_the_documents_is_there(aspen: Aspen) -> None:
    flags = (  # one line of the design, as it stands
        "--config --node-id --data-dir --host --cookie --dns-port --http-addr --admin-addr --admin-token "
        "--quic-port --peers --ticket --init --heartbeat-interval-ms --election-timeout-min-ms "
        "--election-timeout-max-ms --relay-url --enable-dns-discovery --dns-discovery-url --enable-pkarr "
        "--pkarr-relay-url --disable-mdns --disable-gossip --log-format"
    )
    shown = aspen("node", "run", "--help").stdout
    assert [flag for flag in flags.split() if flag not in shown] == []


def test_unknown_commands_and_options_are_usage_errors(aspen: Aspen) -> None:
    assert aspen("kv", "frobnicate").exit_code == 2
    assert aspen("kv", "get", "k", "--consistency", "sometimes").exit_code == 2


def test_aspen_node_is_node_run() -> None:
    command = [sys.executable, "-c", "from aspen.cli.main import node_main; node_main()", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "--election-timeout-max-ms" in shown


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['aspen', 'kv', '--help']\n"
        "from aspen.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('aiohttp', 'aioquic', 'lmdb', 'rich', 'structlog', 'asyncio')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "[]"
