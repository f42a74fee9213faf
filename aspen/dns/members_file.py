"""How UDP workers hear of the cluster's nodes: a small file that the node process replaces.

What a node knows of others' addresses is not part of the state, so the replica doesn't tell it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.dns.members import ClusterNode

_FILE: Final = "dns-nodes"
_DECODER: Final = msgspec.msgpack.Decoder(tuple[ClusterNode, ...])


def write_nodes(data_dir: Path, nodes: Sequence[ClusterNode]) -> None:
    """Replace the file. Raises `OSError`; what was there before stays then."""
    aside = data_dir / f"{_FILE}.new"
    aside.write_bytes(msgspec.msgpack.encode(tuple(nodes)))
    os.replace(aside, data_dir / _FILE)


def read_nodes(data_dir: Path) -> tuple[ClusterNode, ...]:
    """What the file says; nobody, if it says nothing."""
    try:
        return _DECODER.decode((data_dir / _FILE).read_bytes())
    except (OSError, *UNDECODABLE):
        return ()
