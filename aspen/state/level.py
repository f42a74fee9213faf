"""Which kinds of commands the whole cluster can apply, so that members of different versions hold one state.

A command's kind has a *level*: 1 for all there were in the first release, one more with each release that
adds some (a command with one more field is another kind). A member applies all kinds up to its own level,
`LEVEL`, and halts at any other: to pass over what others apply would make its state another.

So nobody may propose a kind before all can apply it. Each member whose level isn't 1 says so, in a setting of
the cluster; whoever leads raises the *cluster's level* to the least of its members'
(`aspen.services.cluster_level`).
It never falls: what has been applied can't be read by less. A version too old for it refuses to start.
"""

from __future__ import annotations

from typing import Final

from aspen.errors import StorageError
from aspen.state.commands import Command
from aspen.state.settings import LmdbSettings
from aspen.state.store import TableStore

FIRST_LEVEL: Final = 1
LEVEL: Final = 1
"""Of this version. Raised with `LEVELS`."""
LEVELS: Final[dict[type[Command], int]] = {}
"""Kinds of commands above the first level."""
CLUSTER_SETTING: Final = "cluster-level"
MEMBER_SETTING: Final = "cluster-level/{}"


def cluster_level(settings: LmdbSettings) -> int:
    """What every member can apply."""
    return _level(settings.get(CLUSTER_SETTING))


def member_level(settings: LmdbSettings, node_id: int) -> int:
    """What a member has said that it can apply."""
    return _level(settings.get(MEMBER_SETTING.format(node_id)))


def check_level(settings: LmdbSettings, own: int = LEVEL) -> None:
    """Raises `StorageError` if this version is too old for the state it finds."""
    needed = cluster_level(settings)
    if needed > own:
        raise StorageError(
            f"this cluster has moved on to commands of level {needed}, and this version of Aspen knows "
            f"level {own}: start the newer version again (docs/upgrading.md)"
        )


def settings_within_level(store: TableStore) -> LmdbSettings:
    """The settings of a store that this version may go on with. Raises `StorageError`."""
    settings = LmdbSettings(store)
    check_level(settings)
    return settings


def _level(value: bytes | None) -> int:
    return FIRST_LEVEL if value is None else int(value)
