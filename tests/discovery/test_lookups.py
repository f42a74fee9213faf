"""The sources that are asked where nodes are: DNS, bootstrap hosts; and that a dead one holds up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from aspen.config import ClusterBootstrapConfig, IrohConfig
from aspen.config.iroh import DnsUrl
from aspen.discovery.bootstrap import Bootstrap
from aspen.discovery.dns_discovery import DnsDiscovery
from aspen.discovery.lookups import Lookups
from aspen.discovery.service_records import read_nodes, read_places
from aspen.dns.client import DohDns, PlainDns
from aspen.errors import ConfigError, NetworkError
from aspen.identity import Identity
from aspen.net.endpoint import ALPN_GOSSIP, ALPN_RAFT
from aspen.net.knock import key_at
from aspen.node import Node, bootstrap_node
from aspen.pkarr.dns_client import DnsSource

KEYS = [Identity.generate() for _ in range(3)]
ORIGIN = "cluster.test"
Found = dict[tuple[bytes, tuple[str, int]], str]


def answer(*records: tuple[str, str]) -> bytes:
    """A message that answers with records of `_aspen._udp.cluster.test`."""
    message = dns.message.make_response(dns.message.make_query(f"_aspen._udp.{ORIGIN}.", "TXT"))
    for rrtype, data in records:
        message.answer.append(dns.rrset.from_text(f"_aspen._udp.{ORIGIN}.", 30, "IN", rrtype, data))
    return message.to_wire()


def learning(found: Found):  # type: ignore[no-untyped-def]
    def learn(endpoint_id: bytes, address: tuple[str, int], source: str) -> bool:
        is_new = (endpoint_id, address) not in found
        found[endpoint_id, address] = source
        return is_new

    return learn


# --- records ----------------------------------------------------------------------------------


def test_the_txt_records_of_the_service_tell_of_nodes_and_nonsense_is_passed_over() -> None:
    message = answer(
        (
            "TXT",
            f'"node=1" "id={KEYS[0].z32}" "addr=192.0.2.1:7300" "addr=[2001:db8::1]:7300" "shoe-size=44"',
        ),
        ("TXT", f'"node=2" "id={KEYS[1].z32}" "addr=not-an-address"'),
        ("TXT", '"node=3" "id=nonsense" "addr=192.0.2.3:7300"'),
        ("TXT", '"addr=192.0.2.4:7300"'),
    )
    (node,) = read_nodes(message)
    assert node.endpoint_id == KEYS[0].endpoint_id
    assert node.addresses == (("192.0.2.1", 7300), ("2001:db8::1", 7300))


def test_srv_records_kept_by_hand_are_places_and_the_root_is_none() -> None:
    message = answer(("SRV", "0 0 7300 one.example."), ("SRV", "0 0 7301 two.example."), ("SRV", "0 0 0 ."))
    assert read_places(message) == [("one.example", 7300), ("two.example", 7301)]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("dns://ns.example:5300", DnsUrl("ns.example", 5300, None)),
        ("dns://192.0.2.1", DnsUrl("192.0.2.1", 53, None)),
        ("dns://[2001:db8::1]:53/", DnsUrl("2001:db8::1", 53, None)),
        ("https://dns.iroh.link", DnsUrl("dns.iroh.link", 0, "https://dns.iroh.link/dns-query")),
        ("https://a.example:8443/x", DnsUrl("a.example", 8443, "https://a.example:8443/x")),
    ],
)
def test_the_urls_of_dns_servers(text: str, url: DnsUrl) -> None:
    assert DnsUrl.parse(text) == url


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"dns_discovery_url": "ns.example"},
            "'ns.example' is not dns://host:port or https://host/dns-query",
        ),
        ({"dns_discovery_url": "dns://a/b"}, "'dns://a/b' is not dns://host:port or https://host/dns-query"),
        ({"dns_discovery_url": "dns://a:99999"}, "is not dns://host:port or https://host/dns-query"),
        ({"dns_discovery_origin": "a..b"}, "iroh.dns_discovery_origin: 'a..b' is not a domain name"),
        ({"bootstrap_nodes": ["http://one.example"]}, "iroh.bootstrap_nodes: 'http://one.example' is not"),
        ({"bootstrap_nodes": ["one.example:0"]}, "iroh.bootstrap_nodes: 'one.example:0' is not a host"),
        ({"bootstrap_nodes": ["a"] * 65}, "iroh.bootstrap_nodes: at most 64 hosts, not 65"),
    ],
)
def test_settings_that_can_not_work_are_named(settings: dict[str, object], says: str, tmp_path: Path) -> None:
    iroh = IrohConfig(**settings)  # type: ignore[arg-type]
    config = ClusterBootstrapConfig(
        node_id=1, cookie="only-for-this-test", data_dir=tmp_path / "n", iroh=iroh
    )
    with pytest.raises(ConfigError) as refused:
        config.validate()
    assert says in str(refused.value)


def test_bootstrap_hosts_with_and_without_a_port() -> None:
    hosts = ["one.example", "two.example:7400", "192.0.2.1", "2001:db8::1", "[2001:db8::2]:7500"]
    config = ClusterBootstrapConfig(quic_port=7301, iroh=IrohConfig(bootstrap_nodes=hosts))
    assert config.bootstrap_places == (
        ("one.example", 7301),
        ("two.example", 7400),
        ("192.0.2.1", 7301),
        ("2001:db8::1", 7301),
        ("2001:db8::2", 7500),
    )


# --- asking -----------------------------------------------------------------------------------


class Asked:
    """A source that counts, and then does as it is told."""

    def __init__(self, name: str, does: Exception | None = None, *, hangs: bool = False) -> None:
        self.name = name
        self.times = 0
        self.again = asyncio.Event()
        self._does = does
        self._hangs = hangs

    async def look(self) -> bool:
        self.times += 1
        if self.times > 1:
            self.again.set()
        if self._hangs:
            await asyncio.Event().wait()
        if self._does is not None:
            raise self._does
        return True


async def test_a_dead_source_and_a_broken_one_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.discovery.lookups.LOOKUP_MIN_MS", 5)
    dead, broken = Asked("dead", hangs=True), Asked("broken", RuntimeError("a bug"))
    refusing, well = Asked("refusing", NetworkError("dns_unreachable", "no answer")), Asked("well")
    found: list[bool] = []
    lookups = Lookups([dead, broken, refusing, well], lambda: True, lambda: found.append(True))
    lookups.start()
    async with asyncio.timeout(20):
        for source in (broken, refusing, well):
            await source.again.wait()
    await lookups.stop()
    assert dead.times == 1
    assert found


async def test_while_nobody_is_missing_sources_are_left_alone() -> None:
    missing = False
    source = Asked("well")
    lookups = Lookups([source], lambda: missing, lambda: None)
    lookups.start()
    await asyncio.sleep(0.05)
    assert source.times == 1
    missing = True
    async with asyncio.timeout(20):
        await source.again.wait()
    await lookups.stop()


class Told:
    """A DNS server that knows what it was given."""

    host = "ns.test"

    def __init__(self, **answers: bytes | NetworkError) -> None:
        self._answers = answers

    async def ask(self, name: bytes, rrtype: int) -> bytes:
        given = self._answers[{16: "txt", 33: "srv"}[rrtype]]
        if isinstance(given, NetworkError):
            raise given
        return given

    async def close(self) -> None:
        pass


async def test_where_only_srv_records_are_the_hosts_are_asked_for_their_keys() -> None:
    knocked: list[Sequence[tuple[str, int]]] = []

    async def knock(places: Sequence[tuple[str, int]], source: str) -> bool:
        knocked.append(places)
        return True

    told = Told(txt=answer(), srv=answer(("SRV", "0 0 7300 one.example.")))
    assert await DnsDiscovery(told, [ORIGIN], list, learning({}), knock).look()
    assert knocked == [[("one.example", 7300)]]


async def test_a_server_that_answers_nothing_is_an_error() -> None:
    async def knock(places: Sequence[tuple[str, int]], source: str) -> bool:
        return False

    told = Told(txt=NetworkError("dns_unreachable", "no answer"))
    with pytest.raises(NetworkError):
        await DnsDiscovery(told, [ORIGIN], list, learning({}), knock).look()


async def test_no_name_that_resolves_is_an_error() -> None:
    async def nobody(address: tuple[str, int]) -> bytes | None:
        raise AssertionError(address)

    bootstrap = Bootstrap([("absent.invalid", 7300)], nobody, set, b"", learning({}))
    with pytest.raises(NetworkError, match="no address for absent"):
        await bootstrap.look()


# --- against a real node ----------------------------------------------------------------------


def config(tmp_path: Path) -> ClusterBootstrapConfig:
    return ClusterBootstrapConfig(
        node_id=1,
        data_dir=tmp_path / "node",
        cookie="only-for-this-test",
        host="127.0.0.1",
        dns_port=0,
        http_addr="127.0.0.1:0",
        quic_port=0,
        profile="lan",
        init=True,
        iroh=IrohConfig(enable_mdns=False),
    )


async def is_told(discovery: DnsDiscovery, found: Found, node: Node) -> None:
    async with asyncio.timeout(20):
        while (node.identity.endpoint_id, node.quic_address) not in found:
            await discovery.look()
            await asyncio.sleep(0.05)


async def test_a_nodes_own_dns_tells_where_it_is_by_udp_and_by_https(tmp_path: Path) -> None:
    async def knock(places: Sequence[tuple[str, int]], source: str) -> bool:
        return False

    async with await bootstrap_node(config(tmp_path)) as node:
        assert node.dns_address is not None
        host, port = node.http.address
        for client in (PlainDns([node.dns_address]), DohDns(f"http://{host}:{port}/dns-query")):
            found: Found = {}
            await is_told(DnsDiscovery(client, ["aspen.local"], list, learning(found), knock), found, node)
            assert set(found.values()) == {"dns"}
            info = await DnsSource("aspen.local", client).find_info(
                node.identity.endpoint_id
            )  # by its key alone
            assert info is not None
            assert info.addresses == (node.quic_address,)
            await client.close()


async def test_a_node_is_asked_for_its_key_and_nobody_answers_where_nobody_is(tmp_path: Path) -> None:
    async with await bootstrap_node(config(tmp_path)) as node:
        for alpn in (ALPN_GOSSIP, ALPN_RAFT):
            assert await key_at(node.quic_address, alpn) == node.identity.endpoint_id
        free = (node.quic_address[0], 1)
        assert await key_at(free, ALPN_GOSSIP) is None
        found: Found = {}
        places = [("localhost", node.quic_address[1])]
        bootstrap = Bootstrap(places, lambda a: key_at(a, ALPN_GOSSIP), set, b"other", learning(found))
        assert await bootstrap.look()
        assert found == {(node.identity.endpoint_id, node.quic_address): "bootstrap"}
        assert not await bootstrap.look()  # nothing new
        assert node._endpoint.refusals.total() == 0  # to ask for a key is no offence
