"""Every mistake that can be made in a configuration, and the exact words it is answered with."""

# ruff: noqa: E501  a row of the table is one line: an input and its answer

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from aspen.cli.reference import PAGE, SECTIONS, field_docs, page
from aspen.config import ClusterBootstrapConfig, IrohConfig, setting_types
from aspen.config.security import apply_security_defaults, security_report
from aspen.config.sources import LoadedConfig, load_config
from aspen.errors import ConfigError
from aspen.identity import Identity

KEY, KEY2 = (Identity.from_seed(bytes([n]) * 32).z32 for n in (7, 8))
BASE = {"ASPEN_NODE_ID": "1", "ASPEN_COOKIE": "correct horse battery"}
STANDS_FOR = {"KEY2": KEY2, "KEY": KEY, "LONG": "x" * 256}

# TOML, environment and flags; what is said of them. DIR is the file's folder.
ERRORS = (
    (
        "node_id = 0",
        {},
        {},
        "node_id must not be 0: give every node of a cluster an id of its own, from 1, or a ticket or auto_cluster, with which a node is given one",
    ),
    (
        "init = true\nauto_cluster = 3",
        {},
        {},
        "init and auto_cluster: a cluster is founded by one node's word, or by several that agree",
    ),
    ('init = true\nticket = "aspenx"', {}, {}, "init and ticket: a node founds a cluster, or joins one"),
    (
        "learner = true\nauto_cluster = 3",
        {},
        {},
        "learner and auto_cluster: a learner founds nothing; give it a ticket",
    ),
    ("auto_cluster = 17", {}, {}, "DIR/aspen.toml: auto_cluster: 17 is not a whole number from 0 to 16"),
    ("node_id = -1", {}, {}, "DIR/aspen.toml: node_id: -1 is not a whole number from 0 to 9007199254740991"),
    (
        'node_id = "1"',
        {},
        {},
        "DIR/aspen.toml: node_id: '1' is not a whole number from 0 to 9007199254740991",
    ),
    (
        "node_id = 9223372036854775808",
        {},
        {},
        "DIR/aspen.toml: node_id: 9223372036854775808 is not a whole number from 0 to 9007199254740991",
    ),
    ("nod_id = 1", {}, {}, "DIR/aspen.toml: no such setting: nod_id (did you mean node_id?)"),
    (
        "[iroh]\nenable_mds = true",
        {},
        {},
        "DIR/aspen.toml: no such setting: iroh.enable_mds (did you mean iroh.enable_mdns?)",
    ),
    ("iroh = 3", {}, {}, "DIR/aspen.toml: iroh is a section, not a value"),
    ("[server]\nx = 1", {}, {}, "DIR/aspen.toml: no such setting: server"),
    ("node_id = ", {}, {}, "DIR/aspen.toml: not TOML: Invalid value (at end of document)"),
    (
        'cookie = ""',
        {},
        {},
        "cookie: the cluster cookie is empty: give every node of a cluster the same secret, by ASPEN_COOKIE",
    ),
    (
        'cookie = "   "',
        {},
        {},
        "cookie: the cluster cookie is empty: give every node of a cluster the same secret, by ASPEN_COOKIE",
    ),
    (
        'cookie = "production-cluster-secret"',
        {},
        {},
        "cookie: the cluster cookie is one from the documentation: choose a secret of your own",
    ),
    ('cookie = "short"', {}, {}, "cookie: the cluster cookie is shorter than 8 characters"),
    ("cookie = 7391445", {}, {}, "DIR/aspen.toml: cookie: not a text"),
    (
        'cookie = "correct horse battery"\ncookie_file = "x"',
        {},
        {},
        "DIR/aspen.toml: give cookie or cookie_file, not both",
    ),
    (
        'cookie_file = "/no/such/file"',
        {},
        {},
        "cookie_file: can't read /no/such/file: No such file or directory",
    ),
    (
        'cookie_accepted = ["short"]',
        {},
        {},
        "cookie_accepted, number 1: the cluster cookie is shorter than 8 characters",
    ),
    (
        'cookie_accepted = ["aaaaaaaa1","aaaaaaaa2","aaaaaaaa3","aaaaaaaa4","aaaaaaaa5"]',
        {},
        {},
        "cookie_accepted: more than 4; take out those that nobody uses any more",
    ),
    ('admin_token = " "', {}, {}, "admin_token is empty"),
    (
        'admin_token_accepted = ["a-token-of-its-own"]',
        {},
        {},
        "admin_token_accepted needs an admin_token, beside which they are accepted",
    ),
    ("heartbeat_interval_ms = 0", {}, {}, "heartbeat_interval_ms must be greater than 0"),
    ("election_timeout_min_ms = 0", {}, {}, "election_timeout_min_ms must be greater than 0"),
    (
        "election_timeout_max_ms = 0",
        {},
        {},
        "election_timeout_max_ms must be greater than 0; election_timeout_max_ms (0) must be greater than election_timeout_min_ms (1500)",
    ),
    (
        "election_timeout_min_ms = 3000\nelection_timeout_max_ms = 3000",
        {},
        {},
        "election_timeout_max_ms (3000) must be greater than election_timeout_min_ms (3000)",
    ),
    (
        "election_timeout_max_ms = 3600001",
        {},
        {},
        "DIR/aspen.toml: election_timeout_max_ms: 3600001 is not a whole number from 0 to 3600000",
    ),
    (
        'data_dir = "/no/such/parent/node"',
        {},
        {},
        "data_dir: its parent directory /no/such/parent does not exist",
    ),
    ('control_backend = "deterministic"', {}, {}, "control_backend: only raft can run a node"),
    (
        'control_backend = "paxos"',
        {},
        {},
        "DIR/aspen.toml: control_backend: 'paxos' is not one of raft, deterministic",
    ),
    ('profile = "wan"', {}, {}, "DIR/aspen.toml: profile: 'wan' is not one of default, lan"),
    (
        'log_level = "loud"',
        {},
        {},
        "DIR/aspen.toml: log_level: 'loud' is not one of debug, info, warning, error",
    ),
    ('log_format = "xml"', {}, {}, "DIR/aspen.toml: log_format: 'xml' is not one of auto, console, json"),
    ('http_addr = "8080"', {}, {}, "http_addr: '8080' is not host:port (or [v6]:port)"),
    ('http_addr = "::1:8080"', {}, {}, "http_addr: '::1:8080' is not host:port (or [v6]:port)"),
    (
        'admin_addr = "0.0.0.0:8081"',
        {},
        {},
        "admin_addr 0.0.0.0:8081 is not loopback: set admin_token, or bind 127.0.0.1",
    ),
    ("dns_port = 65536", {}, {}, "DIR/aspen.toml: dns_port: 65536 is not a whole number from 0 to 65535"),
    ("quic_port = -1", {}, {}, "DIR/aspen.toml: quic_port: -1 is not a whole number from 0 to 65535"),
    (
        "dns_port = 5300\n[dns_server]\nport = 5301",
        {},
        {},
        "DIR/aspen.toml: dns_port and dns_server.port are one setting and disagree",
    ),
    ('peers = ["2"]', {}, {}, "peers: '2' is not <node id>@<endpoint id>[@host:port]"),
    ('peers = ["0@KEY"]', {}, {}, "peers: '0@KEY': a node id is from 1 to 9007199254740991"),
    ('peers = ["2@short"]', {}, {}, "peers: '2@short': a z-base-32 key has 52 characters, not 5"),
    ('peers = ["2@KEY@host"]', {}, {}, "peers: 'host' is not host:port (or [v6]:port)"),
    ('peers = ["2@KEY", "2@KEY2"]', {}, {}, "peers: node 2 is given with two endpoint ids"),
    ('peers = "2@KEY"', {}, {}, "DIR/aspen.toml: peers: '2@KEY' is not a list of texts"),
    ('trusted_proxies = ["10.0.0.1/8"]', {}, {}, "trusted_proxies: 10.0.0.1/8 has host bits set"),
    ('[iroh]\nsecret_key = "abcd"', {}, {}, "iroh.secret_key must be 64 hexadecimal digits"),
    (
        '[iroh]\nrelay_mode = "sometimes"',
        {},
        {},
        "DIR/aspen.toml: iroh.relay_mode: 'sometimes' is not one of default, custom, disabled",
    ),
    (
        "[iroh]\nenable_pkarr = true\npkarr_republish_delay_secs = 0",
        {},
        {},
        "iroh.pkarr_republish_delay_secs must be greater than 0",
    ),
    (
        '[iroh]\npkarr_relay_url = "ftp://x"',
        {},
        {},
        "iroh.pkarr_relay_url: 'ftp://x' is not an http or https URL",
    ),
    ('[dns_server]\norigin = "a..b"', {}, {}, "dns_server.origins: 'a..b' is not a domain name"),
    (
        "[dns_server]\nworkers = 65",
        {},
        {},
        "DIR/aspen.toml: dns_server.workers: 65 is not a whole number from 0 to 64",
    ),
    (
        '[dns_server]\nrrl_exempt = ["10.0.0"]',
        {},
        {},
        "dns_server.rrl_exempt: '10.0.0' is no address, and no network like 192.0.2.0/24",
    ),
    (
        '[dns_server]\nquery_acl = ["everybody"]',
        {},
        {},
        "dns_server.query_acl: 'everybody' is no address, and no network like 192.0.2.0/24",
    ),
    ('[dns_server]\nnsid = "LONG"', {}, {}, "dns_server.nsid: longer than 255 octets, which DNS can't carry"),
    (
        '[dns_server]\ncookies = "maybe"',
        {},
        {},
        "DIR/aspen.toml: dns_server.cookies: 'maybe' is not one of off, on, required",
    ),
    (
        '[dns_server]\nstale_answers = "lie"',
        {},
        {},
        "DIR/aspen.toml: dns_server.stale_answers: 'lie' is not one of mark, refuse",
    ),
    (
        '[dns_server]\ndht_bootstrap_nodes = ["router"]',
        {},
        {},
        "dns_server.dht_bootstrap_nodes: 'router' is not host:port (or [v6]:port)",
    ),
    (
        '[dns_server.https_config]\ncert_mode = "manual"',
        {},
        {},
        "dns_server.https_config: cert_mode manual needs cert_file and key_file",
    ),
    (
        '[dns_server.https_config]\ncert_mode = "self_signed"\ncert_file = "a"',
        {},
        {},
        "dns_server.https_config: cert_file and key_file are for cert_mode manual, not self_signed",
    ),
    (
        "[dns_server.https_config]\ndot_port = 8443",
        {},
        {},
        "dns_server.https_config: port and dot_port are both 8443; HTTPS and DoT need one each",
    ),
    (
        '[dns_server.https_config]\ndomains = ["a..b"]',
        {},
        {},
        "dns_server.https_config.domains: 'a..b' is not a domain name",
    ),
    (
        '[dns_server.https_config]\ncert_mode = "lets_encrypt"',
        {},
        {},
        "dns_server.https_config: cert_mode lets_encrypt needs domains, which are names without a wildcard",
    ),
    (
        '[dns_server.https_config]\ncert_mode = "acme"\ndomains = ["a.example"]\nacme_directory = "http://x/"',
        {},
        {},
        "dns_server.https_config.acme_directory must be an https:// URL",
    ),
    (
        "[pkarr]\nretention_secs = 0",
        {},
        {},
        "DIR/aspen.toml: pkarr.retention_secs: 0 is not a whole number from 1 on",
    ),
    (
        '[pkarr]\ndenied_keys = ["short"]',
        {},
        {},
        "pkarr.denied_keys: 'short': a z-base-32 key has 52 characters, not 5",
    ),
    (
        "",
        {"ASPEN_NODE_ID": "one"},
        {},
        "environment variable ASPEN_NODE_ID: node_id: 'one' is not a whole number from 0 to 9007199254740991",
    ),
    (
        "",
        {"ASPEN_NODEID": "1"},
        {},
        "environment variable ASPEN_NODEID: no such setting (did you mean ASPEN_NODE_ID?)",
    ),
    (
        "",
        {"ASPEN_INIT": "perhaps"},
        {},
        "environment variable ASPEN_INIT: init: 'perhaps' is not true or false",
    ),
    (
        "",
        {"ASPEN_IROH_RELAY_MODE": "never"},
        {},
        "environment variable ASPEN_IROH_RELAY_MODE: iroh.relay_mode: 'never' is not one of default, custom, disabled",
    ),
    (
        "",
        {},
        {"node_id": 0},
        "node_id must not be 0: give every node of a cluster an id of its own, from 1, or a ticket or auto_cluster, with which a node is given one",
    ),
    ("", {}, {"dns_port": 70000}, "flag --dns-port: dns_port: 70000 is not a whole number from 0 to 65535"),
    ("", {}, {"profile": "wan"}, "flag --profile: profile: 'wan' is not one of default, lan"),
)
WARNINGS = (
    (
        "heartbeat_interval_ms = 1500",
        "heartbeat_interval_ms (1500) is not below election_timeout_min_ms (1500): followers will call elections under a healthy leader",
    ),
    ("election_timeout_min_ms = 999", "election_timeout_min_ms (999) is below 1000 outside the lan profile"),
    (
        "election_timeout_max_ms = 10001",
        "election_timeout_max_ms (10001) is above 10000: a lost leader is missed for long",
    ),
    (
        'http_addr = "127.0.0.1:80"',
        "http_addr uses a well-known port (127.0.0.1:80): it needs privileges and may be taken",
    ),
    (
        'admin_addr = "127.0.0.1:443"',
        "admin_addr uses a well-known port (127.0.0.1:443): it needs privileges and may be taken",
    ),
    (
        'http_addr = "0.0.0.0:8080"',
        "http_addr 0.0.0.0:8080 is not a loopback address and neither admin_addr nor admin_token is set: the kv and cluster routes are not served",
    ),
    ('admin_token = "short"', "admin_token is shorter than 16 characters"),
    (
        'admin_token = "long enough for a token"\nadmin_token_accepted = ["short"]',
        "admin_token_accepted is shorter than 16 characters",
    ),
    (
        "[iroh]\nenable_pkarr = true\nenable_pkarr_dht = false\nenable_pkarr_relay = false",
        "iroh.enable_pkarr_relay and enable_pkarr_dht are both off: enable_pkarr publishes nothing",
    ),
    (
        "[iroh]\nenable_pkarr = true\ninclude_pkarr_direct_addresses = false",
        "iroh.include_pkarr_direct_addresses is off and iroh has no relay: there is nothing to publish",
    ),
    (
        "ractor_port = 0",
        "ractor_port has no effect: there are no actors; quic_port carries what the nodes say to each other (0: any port)",
    ),
    (
        '[dns_server]\ndata_dir = "/var/lib/aspen/dns"',
        "dns_server.data_dir has no effect: records are part of the replicated state and live in the node's data_dir",
    ),
    (
        '[dns_server.https_config]\ncert_mode = "acme"\ndomains = ["a.example"]',
        "dns_server.https_config: certificates of Let's Encrypt's staging authority are for tests; set letsencrypt_prod for real ones",
    ),
)


def load(tmp_path: Path, toml: str, environment: dict[str, str], flags: dict[str, Any]) -> LoadedConfig:
    for name, text in STANDS_FOR.items():
        toml = toml.replace(name, text)
    file = tmp_path / "aspen.toml"
    file.write_text(toml)
    own = {**BASE, "ASPEN_DATA_DIR": str(tmp_path / "n"), **environment}
    return load_config(config_file=file, environment=own, flags=flags)


def plain(text: str, tmp_path: Path) -> str:
    text = text.replace(str(tmp_path), "DIR")
    for name, stands_for in STANDS_FOR.items():
        text = text.replace(stands_for, name)
    return text


@pytest.mark.parametrize(("toml", "environment", "flags", "says"), ERRORS)
def test_errors(
    toml: str, environment: dict[str, str], flags: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml, environment, flags).validate()
    assert plain(str(caught.value), tmp_path) == says


@pytest.mark.parametrize(("toml", "says"), WARNINGS)
def test_warnings(toml: str, says: str, tmp_path: Path) -> None:
    warnings = load(tmp_path, toml, {}, {}).validate()
    assert [text for text in warnings if "% full" not in text] == [says]


def test_a_good_configuration_is_silent(tmp_path: Path) -> None:
    assert [text for text in load(tmp_path, "", {}, {}).validate() if "% full" not in text] == []


# --- security defaults ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iroh", "why"),
    [
        (IrohConfig(enable_raft_auth=False), "nodes always prove who they are to each other"),
        (
            IrohConfig(enable_raft_auth=False, enable_pkarr=True),
            "iroh.enable_pkarr has it, since whoever is found by a public directory must prove itself",
        ),
    ],
)
def test_authentication_can_not_be_switched_off(iroh: IrohConfig, why: str) -> None:
    config = ClusterBootstrapConfig(iroh=iroh)
    text = f"iroh.enable_raft_auth = false is overruled: {why}"
    assert apply_security_defaults(config) == {"iroh.enable_raft_auth": text}
    assert config.iroh.enable_raft_auth
    assert apply_security_defaults(config) == {}


TOKEN = "a-token-of-sixteen-and-more"


@pytest.mark.parametrize(
    ("toml", "environment", "topic", "says"),
    [
        ("", {}, "trust", "cookie from environment variable ASPEN_COOKIE"),
        ('cookie_file = "DIR/cookie"', {}, "trust", "cookie in the file DIR/cookie; 1 more accepted from others"),
        ("", {}, "admin", "this machine at 127.0.0.1:8080, without a token"),
        (f'admin_token = "{TOKEN}"', {}, "admin", "this machine at 127.0.0.1:8080, with the token"),
        ('http_addr = "0.0.0.0:8080"', {}, "admin", "served nowhere: http_addr is open to the network, and there is no admin_token"),
        (f'http_addr = "0.0.0.0:8080"\nadmin_token = "{TOKEN}"', {}, "admin", "whoever reaches 0.0.0.0:8080, with the token; over plain HTTP the token can be overheard"),
        ('http_addr = "0.0.0.0:8080"\nadmin_addr = "127.0.0.1:8081"', {}, "admin", "this machine at 127.0.0.1:8081, without a token"),
        ("[iroh]\nenable_pkarr = true", {}, "peers", "at 0.0.0.0:7300, authenticated by identity key and cookie, encrypted by QUIC (iroh.enable_pkarr has it so)"),
        ("[iroh]\nenable_mdns = false\nenable_gossip = false", {}, "announced", "nowhere"),
        ("[dns_server]\nenable = false", {}, "dns", "off"),
        ("", {"ASPEN_COOKIE": ""}, "trust", "no cookie yet: set ASPEN_COOKIE"),
        ("", {}, "identity", "DIR/n/identity.key, which will be made, readable by its owner only"),
        ('ticket = "aspensigned…"', {"ASPEN_COOKIE": ""}, "trust", "no cookie yet: a signed ticket brings it"),
        ("[iroh]\nrelay_server = true", {}, "relays", "for nodes that know the cookie, at /relay"),
        ("[dns_server.https_config]", {}, "encrypted", "HTTP and DNS are in the clear (no https_config)"),
        ("[dns_server.https_config]\nport = 8443", {}, "encrypted", "HTTPS, DoT, DoQ; certificate self_signed"),
    ],
)  # fmt: skip
def test_the_report_says_who_may_do_what(
    toml: str, environment: dict[str, str], topic: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "cookie").write_text("the new one of all\nthe old one of all\n")
    (tmp_path / "cookie").chmod(0o600)
    own = {"ASPEN_COOKIE": "" if "cookie_file" in toml else BASE["ASPEN_COOKIE"], **environment}
    loaded = load(tmp_path, toml.replace("DIR", str(tmp_path)), own, {})
    report = security_report(loaded.config, loaded.origin)
    assert plain(report[topic], tmp_path) == says
    assert not any(secret in str(report) for secret in (TOKEN, "one of all", BASE["ASPEN_COOKIE"]))


def test_a_cookie_on_the_command_line_is_told_of(tmp_path: Path) -> None:
    loaded = load(tmp_path, "", {}, {"cookie": "correct horse battery"})
    assert "every process on this machine can see" in security_report(loaded.config, loaded.origin)["trust"]


# --- secrets in files -------------------------------------------------------------------------


def test_a_secret_file_has_the_secret_and_those_accepted_beside_it(tmp_path: Path) -> None:
    for name in ("cookie", "token"):
        (tmp_path / name).write_text(f"  the {name} of now  \n\nthe {name} of old\n")
        (tmp_path / name).chmod(0o600)
    toml = f'cookie_file = "{tmp_path}/cookie"\nadmin_token_file = "{tmp_path}/token"'
    loaded = load(tmp_path, toml, {}, {})  # the file's cookie, not the environment's
    assert loaded.config.all_cookies == ("the cookie of now", "the cookie of old")
    assert loaded.config.admin_tokens == ("the token of now", "the token of old")
    assert loaded.origin("cookie") == f"cookie_file {tmp_path}/cookie"
    assert [text for text in loaded.validate() if "% full" not in text] == []
    (tmp_path / "cookie").chmod(0o640)
    assert any("others on this machine may read" in text for text in loaded.validate())


@pytest.mark.parametrize(
    ("content", "says"),
    [(b" \n", "is empty"), (b"\xff\xfe", "is not UTF-8"), (b"x" * 5_000, "is longer than")],
)
def test_a_secret_file_that_can_not_be_used(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "cookie").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^cookie_file: .*{says}"):
        load(tmp_path, f'cookie_file = "{tmp_path}/cookie"', {}, {})


def test_a_cookie_of_a_later_source_replaces_the_file_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text('cookie_file = "/no/such/file"')
    loaded = load_config(config_file=file, environment={}, flags={"cookie": "correct horse battery"})
    assert loaded.config.all_cookies == ("correct horse battery",)


# --- where values come from -------------------------------------------------------------------


def test_each_value_tells_its_origin(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, 'profile = "lan"\n[dns_server]\nport = 5301', {"ASPEN_HOST": "127.0.0.2"}, {"quic_port": 7}
    )
    file = tmp_path / "aspen.toml"
    assert loaded.origin("host") == "environment variable ASPEN_HOST"
    assert loaded.origin("dns_port") == f"{file}, as dns_server.port"
    assert loaded.origin("heartbeat_interval_ms") == f"profile lan ({file})"
    assert loaded.origin("quic_port") == "flag --quic-port"
    assert loaded.origin("iroh.enable_mdns") == "default"


# --- the page ---------------------------------------------------------------------------------


def test_the_page_of_settings_is_up_to_date() -> None:
    text = PAGE.read_text("utf-8")
    assert page(text) == text, "run: python -m aspen.cli.reference"


def test_every_setting_has_a_line_that_explains_it() -> None:
    sections = {"iroh", "dns_server", "pkarr"}
    for _prefix, struct in SECTIONS:
        docs = field_docs(struct)
        assert [
            f.name for f in msgspec.structs.fields(struct) if f.name not in docs and f.name not in sections
        ] == []
    assert len(setting_types()) > 60
