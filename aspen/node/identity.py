"""A node's key, and how it is changed while the cluster runs on.

In two steps, each through the log: the node announces its next key, so that all members admit it by
either; it is started again under the new one, and has that take the old one's place. The next key lies
beside the old one until then, so that at any moment a node that is killed starts again under a key that
the others admit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Final

import structlog

from aspen.config import ClusterBootstrapConfig
from aspen.errors import ControlPlaneError
from aspen.http.rotation import Rotated
from aspen.identity import Identity, sync_directory
from aspen.limits import IDENTITY_RETRY_MS, RESTART_PAUSE_MS
from aspen.raft.cluster import Consensus
from aspen.raft.storage import LmdbLog
from aspen.state.store import Store

log = structlog.get_logger("aspen.node")

IDENTITY_FILE: Final = "identity.key"
NEXT_FILE: Final = "identity.key.next"


def take_identity(config: ClusterBootstrapConfig, data_dir: Path, store: Store) -> Identity:
    """The key to start with: the next one, if the others admit it. Raises `IdentityError`."""
    if config.iroh.secret_key is not None:
        return Identity.from_hex(config.iroh.secret_key)
    file, next_file = data_dir / IDENTITY_FILE, data_dir / NEXT_FILE
    current = Identity.load_or_create(file)
    if not next_file.exists():
        return current
    successor = Identity.load(next_file)
    storage = LmdbLog(store)
    holder = storage.roster.by_endpoint(successor.endpoint_id)
    if storage.node is None or holder is None or holder.node_id != storage.node.node_id:
        return current  # not announced, as far as this node knows: asked for again, it will be
    # First what must agree with the key, then the key: started between the two, the same happens again.
    storage.change_key(storage.node.node_id, successor.endpoint_id)
    os.replace(next_file, file)
    sync_directory(data_dir)
    log.info("identity changed", was=current.z32, endpoint_id=successor.z32)
    return successor


class IdentityRotation:
    """Changes a running node's key; `aspen.http.rotation.Rotator`."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        consensus: Consensus,
        identity: Identity,
        end_node: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._consensus = consensus
        self._identity = identity
        self._end_node = end_node
        self._tasks: set[asyncio.Task[None]] = set()
        self.wants_restart = False
        """Whether the node ends to be started again, under its next key."""

    def start(self) -> None:
        """If this node runs under a key that it announced before, have that take the old one's place."""
        self._start_task(self._adopt())

    async def stop(self) -> None:
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def rotate(self, timeout_ms: int) -> Rotated:
        """Make a key, have the members admit it, let another lead, and end the node.

        Raises a kind of `ControlPlaneError`.
        """
        consensus = self._consensus
        if self._config.iroh.secret_key is not None:
            raise ControlPlaneError.InvalidRequest(
                "this node's key is given by iroh.secret_key: docs/security.md says how to change such a key"
            )
        member = consensus.roster.member(consensus.node_id)
        if member is None:
            raise ControlPlaneError.NotInitialized("this node is no member of a cluster")
        if member.endpoint_id != consensus.endpoint_id:
            # It runs under the announced key. Another announcement would take that one's place: with neither
            # of its keys known, nobody would admit this node any more.
            raise ControlPlaneError.Failed(
                "the last change of this node's key isn't finished: try again soon"
            )
        next_file = self._config.data_path / NEXT_FILE
        successor = await asyncio.to_thread(Identity.load_or_create, next_file)
        await consensus.control.announce_key(consensus.node_id, successor.endpoint_id, timeout_ms)
        await consensus.control.step_aside(timeout_ms)
        log.info("next identity announced", endpoint_id=self._identity.z32, next=successor.z32)
        self.wants_restart = True
        self._start_task(self._end_soon())
        return Rotated(consensus.node_id, self._identity.z32, successor.z32)

    async def _end_soon(self) -> None:
        await asyncio.sleep(RESTART_PAUSE_MS / 1000)
        await asyncio.shield(asyncio.ensure_future(self._end_node()))

    async def _adopt(self) -> None:
        consensus = self._consensus
        while (member := consensus.roster.member(consensus.node_id)) is not None:
            if member.endpoint_id == consensus.endpoint_id:
                return
            try:
                await consensus.control.adopt_key(consensus.node_id, consensus.endpoint_id)
                log.info("identity adopted")
            except ControlPlaneError as error:
                log.info("identity not adopted yet", reason=str(error))
                await asyncio.sleep(IDENTITY_RETRY_MS / 1000)

    def _start_task(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
