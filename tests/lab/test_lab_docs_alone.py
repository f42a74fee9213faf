"""Blocks of the documentation that one machine is enough for: its files, its names, other servers on it."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import ROOT, blocks, blocks_for, filled_in
from lab import Lab
from machines import Machine, machine

COOKIE = "of this machine alone, which nobody guesses"
OTHER_SERVERS = shlex.join([sys.executable, str(Path(__file__).with_name("other_servers.py"))])
OTHER_KEY = "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}")


pytestmark = needs("openssl", "curl", "dig")


def toml_of(page: str) -> str:
    """The first TOML block of a page."""
    return next(block.code for block in blocks(ROOT / "docs" / page) if block.language == "toml")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine without any node."""
    lab = Lab(tmp_path_factory.mktemp("alone"))
    try:
        host = lab.host("alone").plug(lab.network("lan"), "192.0.2.1/24")
        host.set_hosts({name: "192.0.2.1" for name in ("dns.example.com", "old.example")})
        with machine(host) as made:
            yield made
    finally:
        lab.close()


@pytest.fixture(scope="module")
def certificate(alone: Machine) -> Path:
    """Of the names that the machine goes by. Whoever trusts it trusts them: CURL_CA_BUNDLE."""
    names = "subjectAltName=DNS:dns.example.com,DNS:old.example"
    alone.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 2 "
        f"-addext {names} -keyout privkey.pem -out fullchain.pem && cat privkey.pem fullchain.pem >both.pem"
    )
    return alone.home / "fullchain.pem"


@pytest.fixture(scope="module")
def node(alone: Machine, certificate: Path) -> Machine:
    """A node with all defaults, but for HTTPS, as docs/tls.md configures it."""
    alone.run("cp fullchain.pem privkey.pem /etc/aspen/")
    settings = 'init = true\nnode_id = 1\nprofile = "lan"\nhost = "192.0.2.1"\ndns_server.workers = 0\n'
    settings += 'data_dir = "/var/lib/aspen"\niroh.enable_mdns = false\n'
    alone.write("/etc/aspen/aspen.toml", f'{settings}\n{toml_of("tls.md")}host = "192.0.2.1"\n')
    alone.start("aspen node run --config /etc/aspen/aspen.toml", "node started", ASPEN_COOKIE=COOKIE)
    return alone


def only_block(request: pytest.FixtureRequest) -> str:
    ((block,),) = blocks_for(request).values()
    return block


# --- without a node -------------------------------------------------------------------------------


def test_a_file_is_checked(request: pytest.FixtureRequest, alone: Machine) -> None:
    """The one that the page shows further down."""
    alone.write("/etc/aspen/cookie", COOKIE)
    (alone.home / "aspen.toml").write_text(toml_of("configuration.md"))
    shown = alone.run(only_block(request))
    assert "The configuration is valid." in shown
    assert re.search(r"data_dir +/var/lib/aspen +aspen.toml", shown)


def test_a_relay_by_itself(request: pytest.FixtureRequest, alone: Machine) -> None:
    by_variable, watched = blocks_for(request)["relay.md"]
    relay = alone.start(by_variable, "relay started")
    assert '"status"' in alone.run("curl -sf http://192.0.2.1:3340/healthz")
    relay.stop()
    alone.write("/etc/aspen/cookie", COOKIE)
    command, ask_it = watched.splitlines()
    relay = alone.start(command, "relay started")
    assert "aspen_relay_" in alone.run(ask_it)
    relay.stop()


def test_a_machine_waits_for_the_others_of_its_lan(request: pytest.FixtureRequest, alone: Machine) -> None:
    script = filled_in(only_block(request), a_secret_of_your_own=shlex.quote(COOKIE))
    waiting = alone.start(script, "1 of 3 nodes are here")
    waiting.stop()
    alone.run("rm -rf /var/lib/aspen")


# --- beside a node --------------------------------------------------------------------------------


@needs("kdig")
def test_dns_over_https_by_name(request: pytest.FixtureRequest, node: Machine, certificate: Path) -> None:
    shown = node.run(only_block(request), CURL_CA_BUNDLE=str(certificate))
    assert "status: NOERROR" in shown
    assert '"Status":0' in shown
    assert shown.count("aspen.local.") >= 4  # the question and the answer, twice


def test_keys_are_denied(request: pytest.FixtureRequest, node: Machine) -> None:
    script = only_block(request)
    shown = node.run(filled_in(script, key=[OTHER_KEY, OTHER_KEY]))
    assert OTHER_KEY in shown
    assert "abuse" in shown
    *_, listing, _ = script.splitlines()
    assert OTHER_KEY not in node.run(listing)


def test_packets_come_from_another_pkarr_server(
    request: pytest.FixtureRequest, node: Machine, certificate: Path
) -> None:
    node.run("aspen pkarr publish --key their.key --out packet '@ 60 A 192.0.2.7'")
    key = node.run("aspen pkarr show their.key").strip()
    (node.home / "packet").rename(node.home / key)
    node.start(f"{OTHER_SERVERS} pkarr {key} both.pem", "serving")
    node.run(f"aspen pkarr resolve {key}", code=3)
    node.run(only_block(request), KEY=key, CURL_CA_BUNDLE=str(certificate))
    assert "192.0.2.7" in node.run(f"aspen pkarr resolve {key}")
    assert node.run(f"dig @192.0.2.1 -p 5300 +short {key}.aspen.local A") == "192.0.2.7\n"


@needs("jq")
def test_keys_come_from_consul(request: pytest.FixtureRequest, node: Machine) -> None:
    (node.home / "keys.json").write_text('{"app/": "", "app/name": "größer", "app/two": "lines\\nof it"}')
    node.start(f"{OTHER_SERVERS} consul keys.json", "serving")
    node.run(only_block(request))
    assert node.run("aspen kv get app/name") == "größer\n"
    assert node.run("aspen kv get app/two") == "lines\nof it\n"
    assert node.run("aspen kv get app/").strip() == ""


@needs("etcd", "etcdctl", "jq")
def test_keys_come_from_etcd(request: pytest.FixtureRequest, node: Machine) -> None:
    node.start("ETCDCTL_API=3 etcd --data-dir /var/lib/etcd", "ready to serve client requests")
    node.run("etcdctl put /here/one 1 && etcdctl put there 'and more'", ETCDCTL_API="3")
    node.run(only_block(request), ETCDCTL_API="3")
    assert node.run("aspen kv get /here/one") == "1\n"
    assert node.run("aspen kv get there") == "and more\n"


def test_a_zone_comes_from_another_name_server(request: pytest.FixtureRequest, node: Machine) -> None:
    lines = ["$ORIGIN example.com.", "$TTL 300", "@ SOA ns1 hostmaster 7 3600 600 86400 60", "@ NS ns1"]
    lines += ["ns1 A 192.0.2.1", "www A 192.0.2.80"]
    (node.home / "example.com.db").write_text("\n".join(lines) + "\n")
    node.run(only_block(request))
    assert node.run("dig @192.0.2.1 -p 5300 +short www.example.com A") == "192.0.2.80\n"
