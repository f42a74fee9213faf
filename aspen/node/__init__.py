"""A node put together, part by part."""

from aspen.node.node import PROTOCOL_VERSION as PROTOCOL_VERSION
from aspen.node.node import Node as Node
from aspen.node.node import bootstrap_node as bootstrap_node
