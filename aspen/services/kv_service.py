"""The key-value store of a node, put together: readers, watches, expiry of leases, HTTP routes."""

from __future__ import annotations

from collections.abc import Callable

from aspen.http.kv import KvRoutes
from aspen.http.kv_watch import WatchHub
from aspen.http.leases import LeaseRoutes
from aspen.http.routing import Router
from aspen.http.watch import WatchRoutes
from aspen.state.kv_reader import LmdbKv
from aspen.state.lease_expiry import LeaseExpiry
from aspen.state.leases import LmdbLeases
from aspen.state.ports import Proposer
from aspen.state.store import TableStore


class KvService:
    """`wake` it when the replica has moved; give `expiry` to the housekeeper."""

    def __init__(self, store: TableStore, proposer: Proposer, wall_ms: Callable[[], int]) -> None:
        self.reader = LmdbKv(store)
        self.leases = LmdbLeases(store)
        self.hub = WatchHub(self.reader)
        self.expiry = LeaseExpiry(self.leases, proposer)
        self.wake = self.hub.wake
        self._proposer = proposer
        self._wall_ms = wall_ms

    def add_routes(self, admin: Router) -> None:
        KvRoutes(self._proposer, self.reader, self.hub.beyond).add_routes(admin)
        LeaseRoutes(self._proposer, self.leases, self.hub.beyond, self._wall_ms).add_routes(admin)
        WatchRoutes(self._proposer, self.hub).add_routes(admin)
