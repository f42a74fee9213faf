"""Clients of a cluster, over the HTTP interface of its nodes.

`NodeClient` talks to one node and never sends anything twice. The package shares nothing with the
server but errors and limits.
"""

from aspen.client.node import DEFAULT_ADDR as DEFAULT_ADDR
from aspen.client.node import KvEntry as KvEntry
from aspen.client.node import KvScan as KvScan
from aspen.client.node import KvWritten as KvWritten
from aspen.client.node import NodeClient as NodeClient
from aspen.client.node import parse_addr as parse_addr
