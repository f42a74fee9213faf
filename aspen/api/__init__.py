"""The Python face of a cluster: what programs that embed Aspen import.

`ClusterController`, `KeyValueStore` and `ZoneStore` are Protocols; `RaftControlClient`, `KvClient`
and `ZoneClient` implement them over a node in this process: one started by `aspen.node.bootstrap_node`, or a
member of an `aspen.deterministic.DeterministicCluster`, for tests without network, disk and
clock. Every error is a kind of `ControlPlaneError`, `KeyValueStoreError` or
`ZoneError`.

For a cluster in other processes there is `aspen.client`.
"""

from aspen.api.commands import WriteCommand as WriteCommand
from aspen.api.control import AddLearnerRequest as AddLearnerRequest
from aspen.api.control import ChangeMembershipRequest as ChangeMembershipRequest
from aspen.api.control import ClusterController as ClusterController
from aspen.api.control import ClusterNode as ClusterNode
from aspen.api.control import ClusterState as ClusterState
from aspen.api.control import InitRequest as InitRequest
from aspen.api.control import RaftControlClient as RaftControlClient
from aspen.api.kv import Handle as Handle
from aspen.api.kv import KeyValueStore as KeyValueStore
from aspen.api.kv import KvClient as KvClient
from aspen.api.zones import NewZone as NewZone
from aspen.api.zones import RecordChange as RecordChange
from aspen.api.zones import RecordSet as RecordSet
from aspen.api.zones import ZoneClient as ZoneClient
from aspen.api.zones import ZoneStore as ZoneStore
