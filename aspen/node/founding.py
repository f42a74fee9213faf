"""Nodes with nothing but the cookie found a cluster (`auto_cluster`): the shell of
`aspen.discovery.founding`.

Before anything of the node runs, it looks for others by multicast DNS, by `bootstrap_nodes` and the addresses
of its `peers`, and by what those it meets tell of others, over a protocol of its own on the port where the
node will listen. What it has promised lies in `<data_dir>/founding.json` meanwhile, so it may be restarted at
any time.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog

from aspen.config import ClusterBootstrapConfig
from aspen.config.joined import Joined, write_whole
from aspen.decoding import UNDECODABLE
from aspen.discovery.bootstrap import Bootstrap
from aspen.discovery.founding import Contact, Decided, Founding, Record, TooLate, decode, encode
from aspen.discovery.lookups import Lookups
from aspen.discovery.mdns import Mdns
from aspen.discovery.service import TOPIC_CONTEXT
from aspen.discovery.ticket import Ticket, TicketNode
from aspen.errors import ConfigError, InputError, JoinError
from aspen.identity import Cookies, Identity
from aspen.limits import FOUNDING_PATIENCE_MS, FOUNDING_TICK_MS, HOST_CHARS, TICKET_NODES
from aspen.net.endpoint import ALPN_FOUND, AddressBook, Channel, Hello, Peer, Service
from aspen.net.handshake import INCARNATION_BYTES
from aspen.net.knock import key_at
from aspen.net.reachable import reachable_addresses
from aspen.node.join import Newcomer, Report, as_peer, one_service
from aspen.raft.roster import NO_CLUSTER
from aspen.z32 import encode_key

log = structlog.get_logger("aspen.join")

RECORD_FILE: Final = "founding.json"
_TOLD: Final = "told"


class AutoCluster:
    """One node that waits for the others."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        identity: Identity,
        protocol_version: int,
        newcomer: Newcomer,
        report: Report,
    ) -> None:
        """`newcomer` asks to be let in if there is a cluster already. Raises `ConfigError` for a file that
        isn't what this has written."""
        self._config = config
        self._identity = identity
        self._newcomer = newcomer
        self._report = report
        self._said = ""
        self._file = config.data_path / RECORD_FILE
        self._record = _read(self._file)
        self._core = Founding(identity.endpoint_id, config.auto_cluster, config.node_id, self._record)
        self._book = AddressBook()
        for peer in config.manual_peers:
            if peer.address is not None:
                self._book.add(peer.endpoint_id, peer.address, "manual")
        self._topics = tuple(cookie.derive(TOPIC_CONTEXT) for cookie in Cookies.of(config.all_cookies).all)
        self._hello = Hello(protocol_version, NO_CLUSTER, 0, os.urandom(INCARNATION_BYTES))
        self._settled = asyncio.Event()
        self._channel: Channel | None = None

    async def run(self) -> tuple[Joined, int]:
        """What this node is to be, and the port that others know it by. Raises `JoinError`, `ConfigError`."""
        service = Service(
            alpn=ALPN_FOUND,
            hello=lambda: self._hello,
            admit=lambda peer: None,
            on_frame=self._received,
        )
        async with one_service(self._config, self._identity, service, self._book) as (channel, bound):
            self._channel = channel
            mdns, lookups = self._mdns(bound), self._lookups()
            lookups.start()
            try:
                await self._wait()
            finally:
                await lookups.stop()
                if mdns is not None:
                    await mdns.stop()
        outcome = self._core.outcome
        if isinstance(outcome, TooLate):
            self._report(f"there is a cluster already, {outcome.cluster_id.hex()}: asking to be let in")
            joined, port = await self._newcomer.join(self._ticket(outcome).encode())
        else:
            assert outcome is not None
            joined, port = self._joined(outcome), bound[1]
        return joined, port

    def _mdns(self, bound: tuple[str, int]) -> Mdns | None:
        if not self._config.iroh.enable_mdns:
            return None
        mdns = Mdns(
            self._identity.endpoint_id,
            lambda: self._topics,
            self._book,
            lambda: reachable_addresses(bound),
            self._config.quic_host,
        )
        mdns.start()
        return mdns

    def _lookups(self) -> Lookups:
        """The hosts of `bootstrap_nodes`, asked for their keys until enough nodes are here."""

        def learn(endpoint_id: bytes, address: tuple[str, int], source: str) -> bool:
            self._book.add(endpoint_id, address, source)
            return True

        places = self._config.bootstrap_places
        own_id = self._identity.endpoint_id
        bootstrap = Bootstrap(places, lambda address: key_at(address, ALPN_FOUND), set, own_id, learn)
        size = self._config.auto_cluster
        return Lookups([bootstrap] if places else [], lambda: self._core.here < size, lambda: None)

    async def _wait(self) -> None:
        """Return when it is settled."""
        bound_since_ms = 0
        while not self._settled.is_set():
            now_ms = _now_ms()
            self._core.tick(now_ms, self._contacts())
            self._pump()
            waits_for = self._core.waits_for
            bound_since_ms = (bound_since_ms or now_ms) if waits_for is not None else 0
            if waits_for is not None and now_ms - bound_since_ms > 3 * FOUNDING_PATIENCE_MS:
                self._say(
                    f"waiting for {encode_key(waits_for)}, to whose proposal this node is bound; if that "
                    f"one is lost for good, and no cluster was founded, stop all and delete {self._file}"
                )
            elif not self._settled.is_set():
                way = f" ({self._core.in_the_way})" if self._core.in_the_way else ""
                self._say(f"{self._core.here} of {self._config.auto_cluster} nodes are here{way}")
            try:
                await asyncio.wait_for(self._settled.wait(), FOUNDING_TICK_MS / 1000)
            except TimeoutError:
                continue

    def _contacts(self) -> list[Contact]:
        return [Contact(endpoint_id, self._tellable(endpoint_id)) for endpoint_id in self._book.peers()]

    def _tellable(self, endpoint_id: bytes) -> tuple[tuple[str, int], ...]:
        """Its addresses that others take; whatever settings say, one that can't be ends no conversation."""
        addresses = self._book.addresses(endpoint_id)
        return tuple((host, port) for host, port in addresses if 0 < len(host) <= HOST_CHARS and port)

    def _received(self, peer: Peer, frame_untrusted: bytes) -> None:
        try:
            message = decode(frame_untrusted)
        except InputError as error:
            log.info("not about founding", endpoint_id=encode_key(peer.endpoint_id), reason=str(error))
            return
        self._core.receive(peer.endpoint_id, message, _now_ms())
        self._pump()

    def _pump(self) -> None:
        """What must not be forgotten first, then what may be told."""
        core = self._core
        if core.record != self._record:
            write_whole(self._file, msgspec.json.encode(core.record).decode())
            self._record = core.record
        for contact in core.told.values():
            if contact.endpoint_id != self._identity.endpoint_id:
                for address in contact.addresses:
                    self._book.add(contact.endpoint_id, address, _TOLD)
        core.told.clear()
        for to, message in core.drain():
            if self._channel is not None:
                self._channel.send(to, [encode(message)])
        if core.outcome is not None:
            self._settled.set()

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._report(line)

    # --- what came of it ----------------------------------------------------------------------

    def _joined(self, decided: Decided) -> Joined:
        own_id = self._identity.endpoint_id
        node_id = next(seat.node_id for seat in decided.seats if seat.endpoint_id == own_id)
        self._report(
            f"founding a cluster of {len(decided.seats)} as node {node_id}"
            if decided.founds
            else f"node {node_id} of the new cluster {decided.cluster_id.hex()}"
        )
        return Joined(
            cluster_id=decided.cluster_id.hex(),
            node_id=node_id,
            peers=tuple(
                as_peer(seat.node_id, seat.endpoint_id, self._book.addresses(seat.endpoint_id))
                for seat in decided.seats
                if seat.endpoint_id != own_id
            ),
            init=decided.founds,
        )

    def _ticket(self, late: TooLate) -> Ticket:
        """To the cluster that is there, by way of those whose addresses are known. Raises `JoinError`."""
        nodes = [
            TicketNode(endpoint_id, tuple(addresses))
            for endpoint_id in sorted(late.members)
            if (addresses := self._book.addresses(endpoint_id))
        ]
        if not nodes:
            raise JoinError("unreachable", f"no address is known of the cluster {late.cluster_id.hex()}")
        return Ticket(self._topics[0], late.cluster_id, tuple(nodes[:TICKET_NODES]))


def _read(file: Path) -> Record:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except (OSError, *UNDECODABLE) as error:
        raise ConfigError(f"{file}: not what Aspen wrote there: {error}") from None


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
