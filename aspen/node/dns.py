"""The DNS part of a node, put together: one view of the replica, and every listener that answers from it.

UDP by workers or in this process, TCP beside it, DNS over TLS and the like if there is a certificate. What
a look at the replica can't answer (transfers, updates, signed messages, zones behind a read barrier)
goes to `Primary`, whichever way it came. `progressed` is called whenever the node's state moved.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from aspen.config import ClusterBootstrapConfig
from aspen.config.dns import DnsServerConfig
from aspen.dns.cookie_secret import ClusterCookies, CookieSecretDuty
from aspen.dns.elsewhere import WaitingAnswers, waiting_stream
from aspen.dns.fallback import Elsewhere, FallbackRecords
from aspen.dns.forward import Answer
from aspen.dns.lookup import Records, View
from aspen.dns.members import ClusterNode, LiveNodes, WithNodes
from aspen.dns.members_file import write_nodes
from aspen.dns.notify import Notifier
from aspen.dns.origin import CookiePolicy, DnsSettings
from aspen.dns.policy import Staleness
from aspen.dns.primary import Primary
from aspen.dns.pulses import Pulses
from aspen.dns.rrl import RrlSettings
from aspen.dns.sockets import is_wildcard
from aspen.dns.stream import Answers, Defer, Padding, TcpServer
from aspen.dns.tally import ResponseTally
from aspen.dns.tsig_keys import TsigKeys
from aspen.dns.udp import InProcessUdp, UdpWorkers, adopt_udp, bind_udp_and_tcp
from aspen.dns.udp_answers import COUNTERS
from aspen.errors import ConfigError
from aspen.identity import EndpointId, Identity
from aspen.limits import DNS_STALENESS_POLL_MS
from aspen.net.address_book import Address
from aspen.node.pkarr import packet_life
from aspen.node.tls import EncryptedDns
from aspen.raft.cluster import Consensus
from aspen.raft.ports import Clock
from aspen.services.housekeeping import Housekeeper
from aspen.slow import SlowLog
from aspen.state.kv_reader import LmdbTexts
from aspen.state.packets import LmdbRecords
from aspen.state.ports import Proposer
from aspen.state.settings import LmdbSettings
from aspen.state.status_page import PULSE, STATUS_PAGE_FILE, StatusPage
from aspen.state.store import Store
from aspen.state.zones import LmdbZones
from aspen.systemd import NO_SOCKETS, GivenSockets
from aspen.tls.certificates import Certificates

log = structlog.get_logger("aspen.dns")


def dns_settings(config: ClusterBootstrapConfig) -> DnsSettings:
    """What the configuration says of DNS, as the DNS packages want it."""
    dns = config.dns_server
    name = f"node-{config.node_id}"
    return DnsSettings(
        origins=dns.all_origins,
        cookies=CookiePolicy(dns.cookies),
        rrl=RrlSettings(rate=dns.rrl_rate, slip=dns.rrl_slip, exempt=tuple(dns.rrl_exempt)),
        nsid=name if dns.nsid is None else dns.nsid,
        identity=name if dns.identity is None else dns.identity,
        version=dns.version,
        minimal_responses=dns.minimal_responses,
        query_acl=tuple(dns.query_acl),
        kv_prefix=dns.kv_prefix,
        packet_retention_ms=config.pkarr.retention_secs * 1_000,
        packet_ttl_strict=config.pkarr.strict_ttl,
        ask_elsewhere=dns.enable_dht_fallback,
    )


def udp_workers(dns: DnsServerConfig, sockets: GivenSockets) -> int:
    """How many processes answer UDP: at least one for each socket that was handed over."""
    return max(dns.workers, sockets.count("dns")) if dns.enable and dns.workers else 0


class NodeDns:
    """DNS of a node: `start` it once, `close` it once."""

    address: tuple[str, int]
    """Of UDP and TCP."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        store: Store,
        zones: LmdbZones,
        consensus: Consensus,
        proposer: Proposer,
        clock: Clock,
        page: StatusPage,
        addresses_of: Callable[[EndpointId], tuple[Address, ...]],
        elsewhere: Elsewhere | None = None,
        sockets: GivenSockets = NO_SOCKETS,
    ) -> None:
        """`addresses_of` are a node's own, as they are now; `elsewhere` is asked for keys unknown here;
        `sockets` serve instead of those configured.

        Raises `ConfigError` for settings that can't be used.
        """
        self.settings = dns_settings(config)
        self._live = LiveNodes()
        records: Records = LmdbRecords(store, packet_life(config.pkarr))
        if elsewhere is not None:
            records = FallbackRecords(WithNodes(records, self._live), elsewhere)  # members aren't looked for
        self.view = View.build(records, self.settings, zones, self._live, LmdbTexts(store))
        self.answers = Answers(self.view, Padding.ASKED)
        """For DNS over HTTPS."""
        self.answers.slow = SlowLog(config.slow_operation_ms)
        self.encrypted: EncryptedDns | None = None
        self.udp: UdpWorkers | InProcessUdp | None = None
        self.tcp: TcpServer | None = None
        self.primary: Primary | None = None
        self.tallies: dict[str, ResponseTally] = {}
        """What this process answered, by transport."""
        self._config = config
        self._store = store
        self._zones = zones
        self._consensus = consensus
        self._proposer = proposer
        self._clock = clock
        self._page = page
        self._addresses_of = addresses_of
        self._sockets = sockets
        self._generation = 0
        self._changes = 0
        self._in_process: InProcessUdp | None = None
        self._waiting: WaitingAnswers | None = None
        self.notifier: Notifier | None = None
        self._in_touch_ms = clock.monotonic_ms()
        self.pulses = Pulses()
        """Of the UDP workers."""
        self._timer: asyncio.TimerHandle | None = None
        self._stack = AsyncExitStack()

    async def start(
        self,
        keys: TsigKeys,
        certificates: Certificates | None,
        housekeeper: Housekeeper,
        identity: Identity,
    ) -> None:
        """Raises `ConfigError` for a port that can't be had."""
        workers = self._page.worker_count
        udp_sockets, tcp_socket = self._bound_sockets(max(workers, 1))
        settings = LmdbSettings(self._store)
        self.primary = primary = Primary(self._zones, keys, self._proposer, lambda: self.view, self._now_s)
        self.notifier = notifier = Notifier(
            self._zones,
            keys,
            self._leading_term,
            self._now_s,
            local_host=None if is_wildcard(tcp_socket) else tcp_socket.getsockname()[0],
        )
        notifier.start()
        self._stack.push_async_callback(notifier.close)
        cookies = ClusterCookies(settings, lambda: self._page.generation)
        datagram: Answer = primary.datagram
        stream: Defer = primary.stream
        if self.settings.ask_elsewhere:
            self._waiting = WaitingAnswers(self.view, self.settings, cookies, primary.datagram)
            datagram, stream = self._waiting.datagram, waiting_stream(primary.stream)
        self.answers.defer = stream
        self.tcp = tcp = TcpServer(self.view, defer=stream)
        tcp.slow = self.answers.slow
        self.tallies["https"] = self.answers.tally
        self.tallies["tcp"] = tcp.tally
        if self.settings.cookies is not CookiePolicy.OFF:
            tcp.cookies = cookies
        self._stack.push_async_callback(tcp.close)
        self.address = await tcp.start_on(tcp_socket)
        if workers:
            udp: UdpWorkers | InProcessUdp = UdpWorkers(
                self._config.data_path,
                udp_sockets,
                self.settings,
                self._config.data_path / STATUS_PAGE_FILE,
                answer=datagram,
                log_format=self._config.log_format,
                log_level=self._config.log_level,
                on_end=self._store.forget_dead_readers,
            )
        else:
            udp = self._in_process = InProcessUdp(
                udp_sockets, self.view, datagram, cookies=cookies, settings=self.settings
            )
        self._stack.push_async_callback(udp.close)
        await udp.start()
        self.udp = udp
        if udp.forwarded is not None:
            self.tallies["udp"] = udp.forwarded.tally
        housekeeper.add(CookieSecretDuty(self._proposer, settings))
        https = self._config.dns_server.https_config
        if https is not None and certificates is not None:
            self.encrypted = EncryptedDns(self._config, https, certificates, identity, self._sockets)
            self._stack.push_async_callback(self.encrypted.close)
            await self.encrypted.start(self.view, stream)
            self.tallies |= self.encrypted.tallies
        self._watch_touch()

    def _bound_sockets(self, count: int) -> tuple[list[socket.socket], socket.socket]:
        """UDP for so many workers, and TCP. Raises `ConfigError`."""
        given_tcp = self._sockets.stream("dns")
        host, port = self._config.dns_host, self._config.dns_port
        try:
            if given_tcp is not None:
                return adopt_udp(self._sockets.datagram("dns"), count), given_tcp
            return bind_udp_and_tcp(host, port, count)
        except OSError as error:
            raise ConfigError(f"DNS can't bind {host}:{port}: {error}") from None

    def workers(self) -> dict[str, int]:
        """The pids of the UDP workers, by what they are called."""
        pids = self.udp.pids if isinstance(self.udp, UdpWorkers) else ()
        return {f"worker {number}": pid for number, pid in enumerate(pids, 1)}

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._stack.aclose()

    def progressed(self) -> None:
        """The node's state moved: take up the zones as they are now, and tell secondaries."""
        generation = self._page.generation
        if generation != self._generation:
            self._generation = generation
            self._changes, packets = self._page.changes_since(self._changes)
            if not packets:  # more than packets: zones, perhaps, of which plans and origins know
                self.view.renew()
                self._renew_in_process()
        if self.notifier is not None:
            self.notifier.progressed()

    def udp_tally(self) -> list[int]:
        """What was counted over UDP without the node's help, by `Counter`: of all workers."""
        if isinstance(self.udp, InProcessUdp):
            return list(self.udp.tally)
        workers = [self._page.worker(index) for index in range(self._page.worker_count)]
        return [sum(worker.get(counter) for worker in workers) for counter in range(COUNTERS)]

    # --- staleness ----------------------------------------------------------------------------

    def _watch_touch(self) -> None:
        """Look, now and then, how long it is since this node led or heard a leader, and what is known of
        the others; tell everybody who answers."""
        self._look_at_nodes()
        self._look_at_workers()
        since_ms = self._consensus.since_contact_ms()
        now_ms = self._clock.monotonic_ms()
        if since_ms >= 0:
            # A leader that lost its role was in touch while it led, whatever it heard before.
            self._in_touch_ms = max(self._in_touch_ms, now_ms - since_ms)
        dns = self._config.dns_server
        staleness = Staleness.FRESH
        if dns.max_stale_ms and now_ms - self._in_touch_ms > dns.max_stale_ms:
            staleness = Staleness.SILENT if dns.stale_answers == "refuse" else Staleness.MARKED
        if staleness is not self.view.touch.staleness:
            self.view.touch.staleness = staleness
            self._page.dns_staleness = staleness.value  # workers look at it every second
            self._renew_in_process()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(DNS_STALENESS_POLL_MS / 1_000, self._watch_touch)

    def out_of_touch_ms(self) -> int:
        """Since this node led, or heard a leader; since its start, if it never did."""
        return self._clock.monotonic_ms() - self._in_touch_ms

    @property
    def refuses(self) -> bool:
        """Whether questions go unanswered because the copy here may be old."""
        return self.view.touch.staleness is Staleness.SILENT

    @property
    def started(self) -> bool:
        """Whether every UDP worker has come as far as to answer."""
        page = self._page
        return all(page.worker(index).get(PULSE) for index in range(page.worker_count))

    def _look_at_workers(self) -> None:
        if isinstance(self.udp, UdpWorkers):
            page = self._page
            pulses = [page.worker(index).get(PULSE) for index in range(page.worker_count)]
            self.pulses.look(pulses, self.udp.restarts, self._clock.monotonic_ms())

    def _look_at_nodes(self) -> None:
        nodes = [
            ClusterNode(member.node_id, member.endpoint_id, self._addresses_of(member.endpoint_id))
            for member in self._consensus.roster.members
        ]
        if not self._live.replace(nodes):
            return
        self._renew_in_process()
        try:
            write_nodes(self._config.data_path, self._live.nodes)
        except OSError as error:  # no room: workers go on with what they know
            log.warning("nodes_not_written", error=str(error))
        else:
            self._page.members += 1

    def _renew_in_process(self) -> None:
        if self._in_process is not None:
            self._in_process.replace_view(self.view)
        if self._waiting is not None:
            self._waiting.replace_view(self.view)

    def _leading_term(self) -> int | None:
        return self._consensus.driver.raw.term if self._consensus.is_leader else None

    def _now_s(self) -> float:
        return self._clock.wall_ms() / 1_000
