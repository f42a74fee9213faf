"""A node: everything put together, started and stopped in order. No logic lives here.

Start, bottom up: claim the data directory, take up the identity, open the store, bind the sockets,
run consensus, then answer DNS and HTTP. Stop, top down. If a part can't start, those before it
are stopped again; if the store fails later, the node ends by itself (`wait_closed`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import structlog

from aspen.config import ClusterBootstrapConfig, ControlBackend
from aspen.config.joined import with_joined
from aspen.config.security import apply_security_defaults
from aspen.config.sources import with_secret_files
from aspen.deterministic import DeterministicCluster
from aspen.dns.tsig_keys import TsigKeys
from aspen.errors import ConfigError
from aspen.http.acme_challenge import AcmeChallengeRoutes
from aspen.http.cluster import ClusterRoutes, DnsStatus
from aspen.http.control import CheckReport, ControlRoutes
from aspen.http.doh import DohRoutes
from aspen.http.forwarded import ClientAddress, parse_networks
from aspen.http.health import HealthRoutes
from aspen.http.metrics import MetricsRoutes
from aspen.http.peers import PeersRoutes
from aspen.http.profile import ProfileRoutes
from aspen.http.rotation import RotationRoutes
from aspen.http.server import HttpServer
from aspen.http.tsig_keys import TsigKeyRoutes
from aspen.http.ui import UiRoutes
from aspen.http.zones import ZoneRoutes
from aspen.identity import Cookies, Identity
from aspen.limits import RAFT_REMOVED_GRACE_MS
from aspen.net.address_book import AddressBook
from aspen.net.endpoint import ALPN_PROFILE, ALPN_RAFT, Endpoint, Hello, Peer, Service
from aspen.net.handshake import INCARNATION_BYTES
from aspen.net.reachable import reachable_addresses
from aspen.node.dht import NodeDht
from aspen.node.discovery import Discovery
from aspen.node.dns import NodeDns, udp_workers
from aspen.node.door import Door
from aspen.node.enter import enter, joined_cluster, log_report, see_in
from aspen.node.health import NodeHealth
from aspen.node.http import open_http
from aspen.node.identity import IdentityRotation, take_identity
from aspen.node.join import Report
from aspen.node.lookups import NodeLookups
from aspen.node.metrics import NodeMetrics
from aspen.node.pkarr import PkarrParts, assemble_pkarr
from aspen.node.profiles import NodeProfiles
from aspen.node.tls import acme_duty, open_certificates
from aspen.raft.cluster import Consensus, Timing
from aspen.raft.control import MembershipControl
from aspen.raft.plans import Founder
from aspen.raft.ports import Clock, Listeners
from aspen.raft.roster import Roster
from aspen.raft.transport import RaftTransport
from aspen.raft.writer import Retention
from aspen.services.backup import Backups
from aspen.services.cluster_check import ClusterCheck
from aspen.services.cluster_level import ClusterLevel
from aspen.services.cluster_view import NodeView
from aspen.services.housekeeping import Housekeeper
from aspen.services.kv_service import KvService
from aspen.services.proposer import ClusterProposer
from aspen.slow import SlowLog
from aspen.state.kv_reader import LmdbKv
from aspen.state.level import check_level, settings_within_level
from aspen.state.machine import Machine
from aspen.state.packet_scan import LmdbPacketScan
from aspen.state.packets import LmdbPackets
from aspen.state.ports import Proposer
from aspen.state.status_page import STATUS_PAGE_FILE, StatusPage
from aspen.state.store import DataDirectoryLock, Store
from aspen.state.zone_collection import ZoneCollection
from aspen.state.zones import LmdbZones
from aspen.systemd import NO_SOCKETS, GivenSockets
from aspen.tls.certificates import Certificates

log = structlog.get_logger("aspen.node")

PROTOCOL_VERSION: Final = 1
"""Of what nodes say to each other; nodes of different versions refuse each other."""


async def bootstrap_node(
    config: ClusterBootstrapConfig, sockets: GivenSockets = NO_SOCKETS, on_join: Report = log_report
) -> Node:
    """Start a node; use it as an async context manager, which stops it.

    With a ticket it joins that cluster first, and `on_join` hears how far it has come.

    With `ControlBackend.DETERMINISTIC` it is a cluster of one in memory, for tests: `RaftControlClient`
    and `KvClient` work over it, nothing listens, and of the configuration only `node_id` counts.
    `sockets` that a service manager has opened serve instead of those configured.
    Raises `ConfigError` for settings that can't be used (ports taken included), `IdentityError`
    for a bad key file, `StorageError` if the data directory is taken or can't be trusted, `JoinError` if no
    cluster lets it in.
    """
    node = Node(config, sockets, on_join)
    if config.control_backend is ControlBackend.DETERMINISTIC:
        node._simulate()
        return node
    node.config = config = with_joined(with_secret_files(config))
    config.validate()
    apply_security_defaults(config)
    try:
        await node._start()
    except BaseException:
        await node.shutdown()
        raise
    return node


class Node:
    """A running node. `kv`, `packets` read the local replica; `proposer` writes."""

    identity: Identity
    consensus: Consensus
    control: MembershipControl
    proposer: Proposer
    kv: LmdbKv
    kv_beyond: Callable[[int], Awaitable[None]]
    """Returns once the local replica has a change of a key after a revision."""
    packets: LmdbPackets
    zones: LmdbZones
    dht: NodeDht
    http: HttpServer
    view: NodeView
    health: NodeHealth
    rotation: IdentityRotation
    certificates: Certificates | None = None
    """Of HTTPS, DoT and DoQ; None without `https_config`."""
    dns: NodeDns | None = None

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        sockets: GivenSockets = NO_SOCKETS,
        on_join: Report = log_report,
    ) -> None:
        self.config = config
        self._sockets = sockets
        self.node_id = config.node_id
        self._on_join = on_join
        self.quic_address: tuple[str, int] = ("", 0)
        self.dns_address: tuple[str, int] | None = None
        self.address_book = AddressBook()
        self.cookies: Cookies
        self._stack = AsyncExitStack()
        self._ended = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._known_roster: object = None
        self._kv_service: KvService | None = None
        self._pkarr: PkarrParts | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def wait_closed(self) -> None:
        """Return when the node has ended, whether it was stopped or its store failed."""
        await self._ended.wait()

    async def shutdown(self) -> None:
        """Stop answering, make durable what was accepted, let go of everything. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._stack.aclose())
        try:
            await asyncio.shield(self._closing)
        finally:
            self._ended.set()

    def _simulate(self) -> None:
        """Be a cluster of one that needs nothing but memory: no disk, no network, no time."""
        member = DeterministicCluster([self.node_id])[self.node_id]
        self.identity, self.control, self.proposer = member.identity, member.control, member.proposer
        self.packets, self.zones = member.packets, member.zones
        self.kv, self.kv_beyond = member.kv, member.kv_beyond

    # --- starting, bottom up ------------------------------------------------------------------

    async def _start(self) -> None:
        data_dir = self.config.data_path
        lock = DataDirectoryLock(data_dir)
        self._stack.callback(lock.release)
        store = Store.open(data_dir)
        self._stack.callback(store.close)
        self._settings = settings_within_level(store)
        self.identity = take_identity(self.config, data_dir, store)
        self.config = await enter(self.config, self.identity, store, PROTOCOL_VERSION, self._on_join)
        self.node_id = self.config.node_id
        self.cookies = Cookies.of(self.config.all_cookies)
        workers = udp_workers(self.config.dns_server, self._sockets)
        self._page = StatusPage.create(data_dir / STATUS_PAGE_FILE, workers)
        self._stack.callback(self._page.close)
        await self._start_consensus(store)
        self.health = NodeHealth(self, store, self._clock)
        self._kv_service = KvService(store, self.proposer, self._clock.wall_ms)
        self._stack.callback(self._kv_service.hub.close)
        self.kv, self.kv_beyond = self._kv_service.reader, self._kv_service.hub.beyond
        self.packets = LmdbPackets(store)
        self.zones = LmdbZones(store, lambda: self._page.generation)
        self.tsig_keys = TsigKeys(self._settings)
        self.housekeeper = Housekeeper(
            self.consensus.leading_term, self._clock.wall_ms, self._clock.monotonic_ms
        )
        self.housekeeper.add(self._kv_service.expiry)
        self.housekeeper.add(ZoneCollection(self.proposer, self.zones))
        if acme := acme_duty(self.config, self.proposer, self._settings, self.cookies):
            self.housekeeper.add(acme)
        self.acme_challenges = AcmeChallengeRoutes(self._settings, self.proposer)
        https = self.config.dns_server.https_config
        if https is not None:
            self.certificates = open_certificates(self.config, https, data_dir, self._settings, self.cookies)
            self.certificates.start()
            self._stack.push_async_callback(self.certificates.stop)
        self.dht = NodeDht(self.config, self.identity, self.packets, LmdbPacketScan(store), self._clock)
        self._stack.push_async_callback(self.dht.close)
        await self.dht.start(self.housekeeper)
        self._pkarr = assemble_pkarr(
            self.config,
            store,
            self.proposer,
            self.packets,
            lambda: self.consensus.driver.applied_index,
            self.dht.network,
        )
        self.dht.relay = self._pkarr.relay
        self.housekeeper.add(self._pkarr.expiry)
        if self.config.dns_server.enable:
            await self._start_dns(store)
        await self._start_http(store)
        await self.dht.announce(self.quic_address)
        lookups = NodeLookups(self.config, self._endpoint, self.discovery, self.dht, self._greet_all)
        lookups.start()
        self._stack.push_async_callback(lookups.stop)
        self.housekeeper.start()
        self._stack.push_async_callback(self.housekeeper.stop)

    async def _start_consensus(self, store: Store) -> None:
        config = self.config
        self._check = ClusterCheck(store)
        self._machine = Machine(store, self._check.checkpoints)
        self._clock = Clock(lambda: time.monotonic_ns() // 1_000_000, lambda: time.time_ns() // 1_000_000)
        self.consensus = consensus = Consensus(
            node_id=config.node_id,
            endpoint_id=self.identity.endpoint_id,
            store=store,
            machine=self._machine,
            timing=Timing(
                config.heartbeat_interval_ms, config.election_timeout_min_ms, config.election_timeout_max_ms
            ),
            clock=self._clock,
            known_peers={peer.node_id: peer.endpoint_id for peer in config.manual_peers},
            joining=joined_cluster(config.data_path),
            retention=Retention(config.log_keep_entries, config.log_keep_mib * 1_048_576),
        )
        incarnation, slow = os.urandom(INCARNATION_BYTES), SlowLog(config.slow_operation_ms)
        raft = Service(
            alpn=ALPN_RAFT,
            hello=lambda: Hello(PROTOCOL_VERSION, consensus.cluster_id, config.node_id, incarnation),
            admit=lambda peer: self._admit(peer),
            on_frame=lambda peer, frame: transport.frame_received(peer, frame),
            on_unreachable=lambda endpoint_id: transport.peer_unreachable(endpoint_id),
            on_refused=consensus.refused_by,
            on_connected=lambda peer: self._connected(peer),
            on_stream=lambda peer, stream: consensus.driver.catch_up.offers.serve(peer.node_id, stream),
        )
        hello = raft.hello
        self.profiles = profiles = NodeProfiles(consensus, lambda: self._endpoint, lambda: self.dns)
        self.door = door = Door(consensus, lambda: self.config.cookie, self.address_book)
        self.discovery = discovery = Discovery(
            config, self.identity, self.cookies, self.address_book, consensus, lambda: self.quic_address
        )
        endpoint = Endpoint(
            identity=self.identity,
            cookies=self.cookies,
            services=[raft, profiles.service(hello), *door.services(hello), *discovery.services(hello)],
            address_book=self.address_book,
            relays=discovery.relays.pool,
        )
        transport = RaftTransport(
            endpoint.channel(ALPN_RAFT),
            config.node_id,
            consensus.endpoint_of,
            on_message=lambda message: consensus.driver.receive(message),
            on_unreachable=lambda node_id: consensus.driver.unreachable(node_id),
            on_restarted=lambda node_id: consensus.driver.catch_up.offers.restarted(node_id),
        )
        self._endpoint, self._transport = endpoint, transport
        listeners = Listeners(self._dns_changed, self._progressed, self._failed, self._replaced, slow)
        consensus.start(transport, listeners, open_stream=transport.open_stream)
        self._stack.push_async_callback(consensus.stop)
        self.proposer = proposer = ClusterProposer(consensus, self._settings)
        self._stack.push_async_callback(ClusterLevel(consensus, proposer, self._settings).start())
        self._check.start(consensus, proposer, endpoint.reaches)
        self._stack.push_async_callback(self._check.stop)
        try:
            self.quic_address = await endpoint.start(config.quic_host, config.quic_port)
        except OSError as error:
            raise ConfigError(f"QUIC can't bind {config.quic_host}:{config.quic_port}: {error}") from None
        self._stack.push_async_callback(discovery.relays.stop)
        self._stack.push_async_callback(endpoint.close)
        door.start(endpoint)
        self._stack.push_async_callback(discovery.stop)
        discovery.start(endpoint)
        self.control = consensus.control
        self.view = NodeView(config.node_id, self.identity, consensus, endpoint)
        if config.init and not consensus.initialised:
            consensus.initialise(self._founders())
        transport.greet(list(consensus.known_peers))
        self._members_changed(consensus.roster)
        self._stack.push_async_callback(see_in(consensus, config, self._on_join))

    def founder(self) -> Founder:
        """This node as a member of a cluster it founds."""
        return self.node_id, self.identity.endpoint_id, reachable_addresses(self.quic_address)

    def _founders(self) -> list[Founder]:
        peers = self.config.manual_peers
        others = [(p.node_id, p.endpoint_id, (p.address,) if p.address else ()) for p in peers]
        return [self.founder(), *others]

    async def _start_dns(self, store: Store) -> None:
        self.dns = dns = NodeDns(
            self.config,
            store,
            self.zones,
            self.consensus,
            self.proposer,
            self._clock,
            self._page,
            self.discovery.addresses_of,
            self.dht.elsewhere,
            self._sockets,
        )
        self._stack.push_async_callback(dns.close)
        await dns.start(self.tsig_keys, self.certificates, self.housekeeper, self.identity)
        self.dns_address = dns.address
        self.view.dns = DnsStatus(dns.settings.origins, dns.address[1])

    async def _start_http(self, store: Store) -> None:
        proxies = parse_networks(self.config.trusted_proxies, "trusted_proxies")
        self.http = open_http(self.config, self.certificates, proxies, self._sockets)
        if self.dns is not None:
            DohRoutes(self.dns.answers, self.proposer, ClientAddress(proxies)).add_routes(self.http.public)
        if self._pkarr is not None:
            self._pkarr.add_routes(self.http)
        self.acme_challenges.add_routes(self.http.public)
        if self._kv_service is not None:
            self._kv_service.add_routes(self.http.admin)
        ZoneRoutes(self.proposer, self.zones, self.tsig_keys).add_routes(self.http.admin)
        ClusterRoutes(self.view).add_routes(self.http.admin)
        HealthRoutes(self.health).add_routes(self.http.public)
        PeersRoutes(self.discovery).add_routes(self.http.admin)
        metrics = NodeMetrics(self, store, self._endpoint, self._pkarr)
        MetricsRoutes(metrics.render).add_routes(self.http.admin)
        self.backups = Backups(store, self.consensus, self._clock).serve(self.http.admin)
        ProfileRoutes(self.profiles).add_routes(self.http.admin)
        ControlRoutes(self.control, self, self.view).add_routes(self.http.admin)
        self.rotation = IdentityRotation(self.config, self.consensus, self.identity, self.shutdown)
        RotationRoutes(self.rotation).add_routes(self.http.admin)
        self.rotation.start()
        self._stack.push_async_callback(self.rotation.stop)
        TsigKeyRoutes(self.proposer, self.tsig_keys).add_routes(self.http.admin)
        UiRoutes().add_routes(self.http.admin)
        self.discovery.relays.serve(self.http, self.certificates)
        self._stack.push_async_callback(self.http.close)
        await self.http.start()
        self._sockets.check_all_taken()

    async def compact(self) -> int:
        """Cut the log short now; the oldest index it still has."""
        return await self.consensus.compact()

    async def check(self, timeout_ms: int, index: int = 0) -> CheckReport:
        """Compare the state of all members."""
        return await self._check.check(timeout_ms, index)

    # --- what the parts tell the node ---------------------------------------------------------

    def _connected(self, peer: Peer) -> None:
        self.consensus.connected(peer.node_id, peer.endpoint_id)
        self._transport.peer_connected(peer)

    def _greet_all(self) -> None:
        members = [member.node_id for member in self.consensus.roster.members]
        self._transport.greet([*self.consensus.known_peers, *members])

    def _admit(self, peer: Peer) -> str | None:
        return self.consensus.admit(peer.node_id, peer.endpoint_id, peer.cluster_id)

    def _still_admit(self, peer: Peer) -> str | None:
        """As `_admit`, with a moment's grace for those who have just been removed and may hear of it."""
        reason = self._admit(peer)
        return None if reason == "removed" and self.consensus.roster.member(peer.node_id) is None else reason

    def _members_changed(self, roster: Roster) -> None:
        self._known_roster = roster
        self.discovery.members_changed(roster)
        self._transport.greet([member.node_id for member in roster.members])
        self._endpoint.channel(ALPN_RAFT).recheck(self._still_admit)
        self._endpoint.channel(ALPN_PROFILE).recheck(self.profiles.admit)
        asyncio.get_running_loop().call_later(
            RAFT_REMOVED_GRACE_MS / 1000, self._endpoint.channel(ALPN_RAFT).recheck, self._admit
        )

    def _dns_changed(self) -> None:
        """On the writer thread, which alone moves this word."""
        self._page.note_changes(self._machine.take_dns_changes())

    def _replaced(self) -> None:
        """A snapshot has become the state; the writer thread waits. Raises `StorageError`."""
        check_level(self._settings)
        # The epoch first: whoever sees the generation move finds both.
        self._page.epoch += 1
        self._page.note_changes(None)

    def _progressed(self) -> None:
        driver = self.consensus.driver
        contact_ms = driver.last_contact_ms or 0
        self._page.note_progress(driver.role, driver.raw.commit_index, driver.applied_index, contact_ms)
        if self.dns is not None:
            self.dns.progressed()
        if driver.roster is not self._known_roster and self.quic_address[0]:
            self._members_changed(driver.roster)
        if self._kv_service is not None:
            self._kv_service.wake()
        if self._pkarr is not None:
            self._pkarr.watch.progressed()

    def _failed(self, error: Exception) -> None:
        log.critical("node halts", error=str(error))
        self._halt = asyncio.ensure_future(self.shutdown())
