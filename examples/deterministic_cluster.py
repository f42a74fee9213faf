"""How to test a program that builds on Aspen: a whole cluster in memory, on simulated time.

`Counter` stands for the program. It is given a `KeyValueStore` and can't tell this one from a real
cluster's. Run this: `python examples/deterministic_cluster.py`
"""

from __future__ import annotations

import asyncio
import time

from aspen.api import ClusterNode, InitRequest, KeyValueStore, KvClient, RaftControlClient, WriteCommand
from aspen.deterministic import DeterministicCluster
from aspen.errors import KeyValueStoreError


class Counter:
    """Counts in the store."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store

    async def value(self) -> int:
        try:
            return int((await self._store.read("counter")).value)
        except KeyValueStoreError.NotFound:
            return 0

    async def add(self) -> None:
        await self._store.write(WriteCommand.Set("counter", str(await self.value() + 1)))


async def main() -> None:
    began = time.monotonic()
    cluster = DeterministicCluster([1, 2, 3], seed=7)  # the same seed, the same story
    members = [ClusterNode(m.node_id, m.address, m.identity.z32) for m in cluster]
    await RaftControlClient(cluster[1]).init(InitRequest(members))

    store = KvClient(cluster[3])
    counter = Counter(store)
    for _ in range(10):
        await counter.add()
    print(f"The counter stands at {await counter.value()}")

    leader = cluster.leader
    assert leader is not None
    cluster.crash(leader.node_id)
    print(f"Node {leader.node_id}, the leader, crashes")
    try:
        await store.write(WriteCommand.Set("on its way", "to the leader"))
    except KeyValueStoreError.OutcomeUnknown as error:
        print(f"A write may or may not have happened: {error}")

    await counter.add()  # by now another leads
    print(f"The counter stands at {await counter.value()}")
    simulated_ms = cluster.time.now_ms()
    print(f"{simulated_ms} ms of simulated time took {(time.monotonic() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
