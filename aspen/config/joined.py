"""`<data_dir>/joined.toml`: what a node learnt when a cluster let it in, or when it helped to found one.

It is written once, before the node first starts as a member, and read at each start: node id, cookie, the
other members. What the configuration itself gives comes first; so whoever changes the cookie later sets it
there. The file holds the cluster's secret and is its owner's alone (mode 0600).
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from aspen.config.cluster import ClusterBootstrapConfig, parse_peer
from aspen.decoding import UNDECODABLE
from aspen.errors import ConfigError
from aspen.identity import sync_directory

JOINED_FILE: Final = "joined.toml"
_CLUSTER_ID: Final = re.compile("[0-9a-f]{32}")
LEARNT: Final = ("node_id", "cookie", "peers", "learner", "init")
"""The settings that may come from there."""
_HEADER: Final = (
    "# Written by Aspen when this node joined its cluster. It holds the cluster's cookie: keep it secret.\n"
    "# Settings from elsewhere come before these. Without this file the node would have to join anew.\n"
)


class Joined(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds."""

    cluster_id: str = ""
    """Hexadecimal; empty while the cluster is only about to be founded."""
    node_id: int
    cookie: str = ""
    peers: tuple[str, ...] = ()
    learner: bool = False
    """Whether it asked to have no vote."""
    init: bool = False
    """Whether it is the one that founds the cluster."""

    def __post_init__(self) -> None:
        if self.cluster_id and not _CLUSTER_ID.fullmatch(self.cluster_id):
            raise ValueError(f"cluster_id is {self.cluster_id!r}, and not 32 hexadecimal digits")


def read_joined(data_dir: Path) -> Joined | None:
    """None on a node that never joined. Raises `ConfigError` naming the file."""
    file = data_dir / JOINED_FILE
    try:
        return msgspec.convert(tomllib.loads(file.read_text("utf-8")), Joined)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, *UNDECODABLE) as error:
        raise ConfigError(f"{file}: not what Aspen wrote there: {error}") from None


def write_joined(data_dir: Path, joined: Joined) -> None:
    """On disk before this returns. Raises `OSError`."""
    settings = (f"{name} = {_toml(getattr(joined, name))}\n" for name in joined.__struct_fields__)
    write_whole(data_dir / JOINED_FILE, _HEADER + "".join(settings))


def write_whole(file: Path, text: str) -> None:
    """Its owner's alone, and after a crash either as before or as it is to be. Raises `OSError`."""
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(descriptor)
    os.rename(new, file)
    sync_directory(file.parent)


def with_joined(config: ClusterBootstrapConfig) -> ClusterBootstrapConfig:
    """The configuration, and what it leaves open as the node learnt it. Raises `ConfigError`."""
    joined = read_joined(config.data_path)
    if joined is None:
        return config
    file = config.data_path / JOINED_FILE
    if config.node_id not in (0, joined.node_id):
        raise ConfigError(f"node_id is {config.node_id}, but this node joined as {joined.node_id} ({file})")
    given = [text for text in config.peers if _agrees(text, joined, founding=config.auto_cluster > 0)]
    known = {parse_peer(text).node_id for text in given}
    return config.replace(
        node_id=joined.node_id,
        cookie=config.cookie or joined.cookie,
        data_dir=config.data_path,
        peers=[*given, *(text for text in joined.peers if parse_peer(text).node_id not in known)],
        learner=config.learner or joined.learner,
        # A node that has joined founds nothing, whatever its settings say.
        init=joined.init and not config.ticket,
        auto_cluster=0 if joined.init else config.auto_cluster,
    )


def _agrees(text: str, joined: Joined, *, founding: bool) -> bool:
    """Whether one of `peers` is to count. For nodes that found a cluster these are places to look for each
    other: who has which node id is what they agreed on, and who didn't promise itself is no founder."""
    peer = parse_peer(text)
    agreed = {other.node_id: other.endpoint_id for other in map(parse_peer, joined.peers)}
    if joined.init or (founding and (peer.node_id in agreed or peer.endpoint_id in agreed.values())):
        return agreed.get(peer.node_id) == peer.endpoint_id
    return True


def _toml(value: object) -> str:
    """A value as TOML has it; JSON's strings are TOML's but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
