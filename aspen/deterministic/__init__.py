"""A whole cluster in one process, on simulated time: for the tests of programs that build on Aspen.

The same core, the same state machine, the same changes of membership as in a real node; but messages
are function calls with a delay, disks are lists, and time passes only while somebody waits for
something. A seed decides every timeout and delay, so a test that failed once fails again.

::

    cluster = DeterministicCluster([1, 2, 3], seed=7)
    control, kv = RaftControlClient(cluster[1]), KvClient(cluster[2])
    await control.init(InitRequest([ClusterNode(m.node_id, m.address, m.identity.z32) for m in cluster]))
    await kv.write(WriteCommand.Set("k", "v"))
    cluster.crash(cluster.leader.node_id)
    cluster.run_for(1_000)                          # an election, and no real time
    await kv.write(WriteCommand.Set("k", "w"))
"""

from aspen.deterministic.cluster import DeterministicCluster as DeterministicCluster
from aspen.deterministic.member import DeterministicMember as DeterministicMember
