"""Clients of a cluster, over the HTTP interface of its nodes.

`Client` talks to a whole cluster, `NodeClient` to one node and never sends anything twice; `SyncClient` is
for programs without an event loop. `coordination` has locks, elections and barriers. The
package shares nothing with the server but errors and limits.
"""

from aspen.client.cluster import Client as Client
from aspen.client.coordination import Barrier as Barrier
from aspen.client.coordination import Counter as Counter
from aspen.client.coordination import Election as Election
from aspen.client.coordination import Lock as Lock
from aspen.client.coordination import Session as Session
from aspen.client.kv import Change as Change
from aspen.client.kv import Changes as Changes
from aspen.client.kv import KvEntry as KvEntry
from aspen.client.kv import KvScan as KvScan
from aspen.client.kv import KvWritten as KvWritten
from aspen.client.kv import LeaseInfo as LeaseInfo
from aspen.client.kv import TxnResult as TxnResult
from aspen.client.kv import compare as compare
from aspen.client.kv import op_delete as op_delete
from aspen.client.kv import op_get as op_get
from aspen.client.kv import op_put as op_put
from aspen.client.node import NodeClient as NodeClient
from aspen.client.sync import SyncClient as SyncClient
from aspen.client.transport import DEFAULT_ADDR as DEFAULT_ADDR
from aspen.client.transport import parse_addr as parse_addr
from aspen.client.zones import NodeZones as NodeZones
