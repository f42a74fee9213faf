"""Configuration: defaults < environment < TOML < flags; strict; what validation says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from aspen.config import (
    ClusterBootstrapConfig,
    ControlBackend,
    DnsServerConfig,
    IrohConfig,
    Profile,
    RelayMode,
    is_loopback,
    parse_address,
    parse_peer,
    setting_types,
)
from aspen.config.sources import LoadedConfig, load_config
from aspen.errors import ConfigError
from aspen.identity import Identity

Aspen = Callable[..., Result]
COOKIE = "correct horse battery"
# Every TOML block that users of the earlier documents have in their files.
DOCUMENTED_BLOCKS = {
    "development": "[iroh]\nenable_mdns = true\nenable_gossip = true\n# DNS and Pkarr disabled\n",
    "bootstrap nodes": '[iroh]\nbootstrap_nodes = ["node1.aspen.example.com", "node2.aspen.example.com"]\n',
    "public internet": (
        "[iroh]\nenable_mdns = false\nenable_dns_discovery = true\nenable_pkarr = true\n"
        "enable_pkarr_dht = true\nenable_pkarr_relay = true\nenable_raft_auth = true\n"
    ),
    "private infrastructure": (
        "[iroh]\nenable_mdns = false\nenable_pkarr = true\nenable_pkarr_dht = false\n"
        'enable_pkarr_relay = true\npkarr_relay_url = "https://dns.internal.company.com"\n'
        'relay_mode = "custom"\nrelay_urls = ["https://relay-us.internal.company.com", '
        '"https://relay-eu.internal.company.com"]\nenable_raft_auth = true\n'
    ),
    "sidecar": '[iroh]\npkarr_relay_url = "http://localhost:8080"\n',
    "dns node": (
        '[dns_server]\nenable = true\ndns_port = 5300\nhttp_addr = "0.0.0.0:8080"\n'
        'origin = "cluster.aspen.local"\ndata_dir = "/var/lib/aspen/dns"\nenable_dht_fallback = true\n'
        '[iroh]\nenable_pkarr = true\npkarr_relay_url = "http://dns-node.internal:8080"\n'
    ),
    "client node": (
        "[dns_server]\nenable = false\n[iroh]\nenable_pkarr = true\n"
        'pkarr_relay_url = "http://dns-node.internal:8080"\nenable_dns_discovery = true\n'
        'dns_discovery_url = "dns://dns-node.internal:5300"\n'
    ),
    "internet": (
        "[iroh]\nenable_mdns = false\nenable_gossip = true\nenable_pkarr = true\n"
        "enable_pkarr_dht = true\nenable_pkarr_relay = true\nenable_raft_auth = true\n"
    ),
    "air-gapped": (
        '[iroh]\nenable_mdns = true\nenable_gossip = true\nenable_pkarr = false\nrelay_mode = "disabled"\n'
    ),
    "dns interface": (
        "[iroh]\nenable_gossip = true\n[dns_server]\nenable = true\nport = 5300\n"
        'origin = "cluster.internal"\n'
    ),
}


def load(
    tmp_path: Path,
    toml: str | None = None,
    environment: dict[str, str] | None = None,
    **flags: Any,
) -> LoadedConfig:
    file = None
    if toml is not None:
        file = tmp_path / "aspen.toml"
        file.write_text(toml)
    return load_config(config_file=file, environment=environment or {}, flags=flags)


def good(tmp_path: Path, **changes: Any) -> ClusterBootstrapConfig:
    return ClusterBootstrapConfig(
        **{"node_id": 1, "cookie": COOKIE, "data_dir": tmp_path / "node", **changes}
    )


@pytest.mark.parametrize("name", DOCUMENTED_BLOCKS)
def test_every_documented_block_loads_and_validates(name: str, tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        DOCUMENTED_BLOCKS[name],
        {"ASPEN_NODE_ID": "1", "ASPEN_COOKIE": COOKIE},
        data_dir=str(tmp_path / "n"),
    )
    loaded.validate()


def test_a_documented_block_means_what_it_says(tmp_path: Path) -> None:
    config = load(tmp_path, DOCUMENTED_BLOCKS["dns node"]).config
    assert (config.dns_port, config.http_listen) == (5300, ("0.0.0.0", 8080))
    assert config.dns_server.all_origins == ("cluster.aspen.local",)
    assert config.iroh.enable_raft_auth
    private = load(tmp_path, DOCUMENTED_BLOCKS["private infrastructure"]).config.iroh
    assert private.relay_mode is RelayMode.CUSTOM
    assert len(private.relay_urls) == 2
    assert load(tmp_path, DOCUMENTED_BLOCKS["client node"]).config.dns_server.enable is False


def test_defaults_are_the_documented_ones() -> None:
    config = ClusterBootstrapConfig()
    assert (config.host, config.dns_port, config.quic_port) == ("127.0.0.1", 5300, 7300)
    assert config.http_listen == ("127.0.0.1", 8080)
    assert (config.heartbeat_interval_ms, config.election_timeout_min_ms) == (500, 1500)
    assert config.election_timeout_max_ms == 3000
    assert config.iroh.enable_gossip
    assert config.iroh.enable_mdns
    assert not config.iroh.enable_pkarr
    assert config.iroh.pkarr_republish_delay_secs == 600
    assert config.dns_server.all_origins == ("aspen.local",)


def test_a_later_source_wins(tmp_path: Path) -> None:
    environment = {"ASPEN_QUIC_PORT": "1", "ASPEN_NODE_ID": "2", "ASPEN_HOST": "127.0.0.2"}
    loaded = load(tmp_path, "quic_port = 2\nnode_id = 3\n", environment, node_id=4)
    assert (loaded.config.quic_port, loaded.config.node_id, loaded.config.host) == (2, 4, "127.0.0.2")
    assert loaded.sources["node_id"] == "flag --node-id"
    assert loaded.sources["host"] == "environment variable ASPEN_HOST"
    assert loaded.sources["quic_port"] == str(tmp_path / "aspen.toml")


def test_one_setting_under_several_names(tmp_path: Path) -> None:
    assert load(tmp_path, "[dns_server]\nport = 5399\n").config.dns_port == 5399
    assert load(tmp_path, "[dns_server]\ndns_port = 5399\n", dns_port=5300).config.dns_port == 5300
    assert load(tmp_path, "dns_port = 5301\n", {"ASPEN_DNS_SERVER_DNS_PORT": "5302"}).config.dns_port == 5301
    both = '[dns_server]\norigin = "a.example."\norigins = [".", "B.example"]\n'
    assert load(tmp_path, both).config.dns_server.all_origins == ("a.example", ".", "b.example")
    with pytest.raises(ConfigError, match="one setting"):
        load(tmp_path, "dns_port = 5300\n[dns_server]\nport = 5301\n")
    with pytest.raises(ConfigError, match="one setting"):
        ClusterBootstrapConfig(dns_port=1, dns_server=DnsServerConfig(port=2))


def test_environment_of_every_kind(tmp_path: Path) -> None:
    environment = {
        "ASPEN_IROH_ENABLE_MDNS": "false",
        "ASPEN_DNS_SERVER_ORIGINS": "a.example, b.example",
        "ASPEN_DNS_SERVER_HTTPS_CONFIG_PORT": "8444",
        "ASPEN_PROFILE": "lan",
        "ASPEN_CONTROL_BACKEND": "RaftActor",
        "ASPEN_PEERS": "",
        "ASPEN_ADDR": "http://127.0.0.1:1",  # the client's, not ours
        "HOME": "/root",
    }
    config = load(tmp_path, None, environment).config
    assert config.iroh.enable_mdns is False
    assert config.dns_server.origins == ["a.example", "b.example"]
    assert config.dns_server.https_config is not None
    assert config.dns_server.https_config.port == 8444
    assert (config.profile, config.heartbeat_interval_ms) == (Profile.LAN, 50)
    assert config.control_backend is ControlBackend.RAFT
    assert config.peers == []


def test_aspen_config_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("node_id = 9\n")
    loaded = load_config(config_file=None, environment={"ASPEN_CONFIG": str(file)}, flags={})
    assert loaded.config.node_id == 9


@pytest.mark.parametrize(
    ("toml", "environment", "names"),
    [
        ("nod_id = 1\n", {}, ["aspen.toml", "nod_id", "did you mean node_id"]),
        ("[iroh]\nenable_mds = true\n", {}, ["aspen.toml", "iroh.enable_mds"]),
        ('node_id = "1"\n', {}, ["aspen.toml", "node_id", "'1'"]),
        ("dns_port = 65536\n", {}, ["aspen.toml", "dns_port", "65535"]),
        ("iroh = 3\n", {}, ["iroh is a section"]),
        ("[server]\nx = 1\n", {}, ["no such setting: server"]),
        ("node_id = \n", {}, ["aspen.toml", "not TOML"]),
        ('control_backend = "paxos"\n', {}, ["control_backend", "paxos"]),
        (None, {"ASPEN_NODE_ID": "one"}, ["ASPEN_NODE_ID", "'one'"]),
        (None, {"ASPEN_NODEID": "1"}, ["ASPEN_NODEID", "did you mean ASPEN_NODE_ID"]),
        (None, {"ASPEN_INIT": "perhaps"}, ["ASPEN_INIT", "perhaps"]),
    ],
)
def test_strict_and_the_error_names_its_source(
    toml: str | None, environment: dict[str, str], names: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml, environment)
    for name in names:
        assert name in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(config_file=tmp_path / "absent.toml", environment={}, flags={})


def test_an_unparsable_secret_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "cookie = 7391445\n")
    assert "7391445" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"node_id": 0}, "node_id"),
        ({"control_backend": "deterministic"}, "control_backend"),
        ({"node_id": "1"}, "node_id"),
        ({"cookie": ""}, "cookie"),
        ({"cookie": "production-cluster-secret"}, "documentation"),
        ({"heartbeat_interval_ms": 0}, "heartbeat_interval_ms"),
        ({"election_timeout_min_ms": 0}, "election_timeout_min_ms"),
        ({"election_timeout_min_ms": 3000}, "must be greater than"),
        ({"iroh": IrohConfig(secret_key="abcd")}, "64 hexadecimal"),
        ({"iroh": IrohConfig(relay_mode=RelayMode.CUSTOM)}, "relay_urls"),
        ({"data_dir": "/no/such/parent/node"}, "/no/such/parent"),
        ({"peers": ["2"]}, "peers"),
        ({"http_addr": "8080"}, "http_addr"),
        ({"admin_addr": "0.0.0.0:8081"}, "admin_token"),
        ({"admin_token": " "}, "admin_token"),
        ({"dns_server": DnsServerConfig(origin="a..b")}, "origin"),
        ({"dns_server": DnsServerConfig(workers=65)}, "workers"),
    ],
)
def test_validation_errors(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        good(tmp_path, **changes).validate()


def test_all_errors_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ClusterBootstrapConfig(heartbeat_interval_ms=0).validate()
    assert all(name in str(caught.value) for name in ("node_id", "cookie", "heartbeat_interval_ms"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heartbeat_interval_ms": 1500}, "heartbeat_interval_ms"),
        ({"election_timeout_min_ms": 999}, "below 1000"),
        ({"election_timeout_max_ms": 10_001}, "above 10000"),
        ({"http_addr": "127.0.0.1:80"}, "well-known"),
        ({"http_addr": "0.0.0.0:8080"}, "not served"),
        ({"admin_token": "short"}, "admin_token"),
        ({"iroh": IrohConfig(dns_discovery_url="dns://127.0.0.1")}, "no effect"),
        (
            {"iroh": IrohConfig(enable_pkarr=True, enable_pkarr_dht=False, enable_pkarr_relay=False)},
            "publishes nothing",
        ),
    ],
)
def test_validation_warnings(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    warnings = good(tmp_path, **changes).validate()
    assert [text for text in warnings if "disk" not in text] == [w for w in warnings if says in w] != []


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.config.checks._disk_used_percent", lambda path: 81.0)
    assert any("81 % full" in text for text in good(tmp_path).validate())


def test_the_lan_profile_keeps_what_was_given(tmp_path: Path) -> None:
    config = good(tmp_path, profile="lan", election_timeout_max_ms=3000)
    assert (config.heartbeat_interval_ms, config.election_timeout_min_ms) == (50, 150)
    assert config.election_timeout_max_ms == 3000
    assert not [text for text in config.validate() if "disk" not in text]


def test_settings_without_effect_warn_when_they_are_written_down(tmp_path: Path) -> None:
    flags = {"node_id": 1, "cookie": COOKIE, "data_dir": str(tmp_path / "n")}
    assert not [text for text in load(tmp_path, "", **flags).validate() if "no effect" in text]
    told = load(tmp_path, "ractor_port = 26000\n", **flags).validate()
    assert [text for text in told if "ractor_port has no effect" in text]


def test_no_secret_is_shown(tmp_path: Path) -> None:
    config = good(tmp_path, admin_token="admin-s3cret-token", iroh=IrohConfig(secret_key="ab" * 32))
    for text in (repr(config), str(config), repr(LoadedConfig(config, {}))):
        assert not any(secret in text for secret in (COOKIE, "admin-s3cret-token", "abab"))


def test_peers_are_read() -> None:
    endpoint = Identity.from_seed(b"\7" * 32)
    text = f"2@{endpoint.z32}@[::1]:7301"
    peer = parse_peer(text)
    assert (peer.node_id, peer.endpoint_id, peer.address) == (2, endpoint.endpoint_id, ("::1", 7301))
    assert parse_peer(f"3@{endpoint.endpoint_id.hex()}").address is None
    assert len(ClusterBootstrapConfig(node_id=2, peers=[text]).manual_peers) == 0
    assert len(ClusterBootstrapConfig(node_id=1, peers=[text]).manual_peers) == 1
    for bad in (
        "",
        "x@y",
        f"0@{endpoint.z32}",
        f"2@{endpoint.z32}@host",
        f"2@{endpoint.z32}@h:1@x",
        "2@short",
    ):
        with pytest.raises(ConfigError):
            parse_peer(bad)


def test_two_endpoint_ids_for_one_node(tmp_path: Path) -> None:
    peers = [f"2@{Identity.from_seed(bytes([n]) * 32).z32}" for n in (1, 2)]
    with pytest.raises(ConfigError, match="two endpoint ids"):
        good(tmp_path, peers=peers).validate()


def test_addresses() -> None:
    assert parse_address("x", "[::]:53") == ("::", 53)
    assert parse_address("x", "localhost:0") == ("localhost", 0)
    for bad in ("::1:53", "host", ":80", "host:", "host:70000", "host:٣"):
        with pytest.raises(ConfigError):
            parse_address("x", bad)
    assert is_loopback("127.8.8.8")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.com")


def test_environment_names_are_unique() -> None:
    names = [path.replace(".", "_") for path in setting_types()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("spelling", "mode"),
    [
        ("manual", "manual"),
        ("Self_Signed", "self_signed"),
        ("self-signed", "self_signed"),
        ("lets_encrypt", "lets_encrypt"),
        ("LetsEncrypt", "lets_encrypt"),
        ("acme", "lets_encrypt"),
    ],
)
def test_cert_mode_has_many_spellings(tmp_path: Path, spelling: str, mode: str) -> None:
    section = f'[dns_server.https_config]\nport = 8443\ncert_mode = "{spelling}"\n'
    https = load(tmp_path, section).config.dns_server.https_config
    assert https is not None
    assert https.mode == mode


def test_without_a_cert_mode_files_say_which_it_is(tmp_path: Path) -> None:
    https = load(tmp_path, '[dns_server.https_config]\ncert_file = "a.pem"\nkey_file = "a.key"\n').config
    assert https.dns_server.https_config is not None
    assert https.dns_server.https_config.mode == "manual"
    https = load(tmp_path, "[dns_server.https_config]\nport = 8443\n").config
    assert https.dns_server.https_config is not None
    assert https.dns_server.https_config.mode == "self_signed"
    assert https.dns_server.https_config.dot_port == https.dns_server.https_config.doq_port == 8853


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ('cert_mode = "manual"', "needs cert_file and key_file"),
        ('cert_mode = "self_signed"\ncert_file = "a"', "for cert_mode manual"),
        ("dot_port = 8443", "both 8443"),
        ('domains = ["a..b"]', "not a domain name"),
        ('cert_mode = "lets_encrypt"', "needs domains"),
        ('cert_mode = "lets_encrypt"\ndomains = ["*.example.com"]', "without a wildcard"),
        ('cert_mode = "acme"\ndomains = ["a.example"]\nacme_directory = "http://x/"', "https://"),
    ],
)
def test_https_settings_that_can_not_be_used(tmp_path: Path, lines: str, names: str) -> None:
    text = f'node_id = 1\ncookie = "correct horse"\n[dns_server.https_config]\n{lines}\n'
    with pytest.raises(ConfigError, match=names.replace(".", r"\.").replace("*", r"\*")):
        load(tmp_path, text).validate()


def test_staging_certificates_are_warned_of(tmp_path: Path) -> None:
    text = 'node_id = 1\ncookie = "correct horse"\n[dns_server.https_config]\ncert_mode = "acme"\n'
    text += 'domains = ["a.example"]\n'
    assert any("staging" in warning for warning in load(tmp_path, text).validate())
    assert not any("staging" in w for w in load(tmp_path, text + "letsencrypt_prod = true\n").validate())


def test_all_that_is_wrong_is_said_at_once(
    aspen: Aspen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text(
        'nod_id = 1\nquic_port = "x"\nheartbeat_interval_ms = 0\nhttp_addr = "nonsense"\n'
        'election_timeout_min_ms = 5000\nelection_timeout_max_ms = "a"\n[dns_server]\norigins = ["a..b"]\n'
    )
    monkeypatch.setenv("ASPEN_COLOUR", "blue")
    told = aspen("config", "check", str(file), "--json")
    assert told.exit_code == 2
    problems = json.loads(told.stderr)["problems"]
    for name in ("COLOUR", "nod_id", "quic_port", "heartbeat", "http_addr", "timeout_max", "origins"):
        assert len([text for text in problems if name in text]) == 1, name
    assert len(problems) == 7  # and nothing of what 5000 ms would be beside the default
    lines = aspen("config", "check", str(file)).stderr.splitlines()
    assert lines == ["aspen: 7 problems with the configuration:", *(f"  {text}" for text in problems)]
    with pytest.raises(ConfigError) as refused:
        load_config(config_file=file, environment={}, flags={})
    assert len(refused.value.problems) == 3  # what can't be read; a node looks no further
