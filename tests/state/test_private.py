"""What a node keeps on disk is for its own user alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from aspen.identity import Identity
from aspen.state.status_page import STATUS_PAGE_FILE, StatusPage
from aspen.state.store import DataDirectoryLock, Store

MAP_BYTES = 16 * 1024**2


@pytest.fixture(autouse=True)
def _careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def start(data_dir: Path) -> None:
    """What a node does with its directory."""
    lock = DataDirectoryLock(data_dir)
    Store.open(data_dir, map_bytes=MAP_BYTES).close()
    StatusPage.create(data_dir / STATUS_PAGE_FILE, 1).close()
    lock.release()


def test_others_can_read_nothing_of_a_store(tmp_path: Path) -> None:
    start(tmp_path / "data")
    state = tmp_path / "data" / "state-1"
    assert [mode(path) for path in (tmp_path / "data", state)] == [0o700, 0o700]
    files = [state / "data.mdb", state / "lock.mdb", tmp_path / "data" / STATUS_PAGE_FILE]
    assert [mode(path) for path in files] == [0o600] * 3


def test_a_directory_that_others_could_read_is_tightened_at_the_start(tmp_path: Path) -> None:
    start(tmp_path / "data")
    state = tmp_path / "data" / "state-1"
    for path in (tmp_path / "data", state):
        path.chmod(0o755)
    start(tmp_path / "data")
    assert [mode(path) for path in (tmp_path / "data", state)] == [0o700, 0o700]


def test_a_folder_that_a_key_is_written_into_is_private(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "data" / "identity.key")
    assert mode(tmp_path / "data") == 0o700


@pytest.mark.parametrize("of", ["other files", "the sticky bit"])
def test_a_folder_that_is_not_a_nodes_alone_stays_as_it_is(tmp_path: Path, of: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    if of == "other files":
        (shared / "somebody's").touch()
    shared.chmod(0o1777 if of == "the sticky bit" else 0o755)
    before = mode(shared)
    start(shared)
    assert (mode(shared), mode(shared / "state-1")) == (before, 0o700)
