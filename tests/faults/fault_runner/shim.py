"""The preloaded library: built once, and one shared page for each node to steer it."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
_WORDS = struct.Struct("=qq")


class FailingSyncs(IntEnum):
    NONE = 0
    ALL = 1
    ROOT = 2
    """Only LMDB's last step: its root, after the pages."""


def build(folder: Path) -> Path | None:
    """The library, or `None` where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the shim does not compile:\n{done.stderr}")
    return library


class FaultPage:
    """What one node's shim looks at."""

    def __init__(self, path: Path, library: Path) -> None:
        path.write_bytes(_WORDS.pack(0, 0))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _WORDS.size)
        self.environment = {"LD_PRELOAD": str(library), "FAULT_SHIM_PAGE": str(path)}

    def _put(self, offset_ns: int, failing: FailingSyncs) -> None:
        # Word by word: the reader must never see half of one.
        words = memoryview(self._map).cast("q")
        words[0], words[1] = offset_ns, failing
        words.release()

    @property
    def clock_offset_ns(self) -> int:
        return int(_WORDS.unpack(self._map[:])[0])

    @property
    def failing_syncs(self) -> FailingSyncs:
        return FailingSyncs(_WORDS.unpack(self._map[:])[1])

    def step_clock(self, offset_s: float) -> None:
        """Set the wall clock to be so far from the machine's."""
        self._put(int(offset_s * 1e9), self.failing_syncs)

    def fail_syncs(self, failing: FailingSyncs) -> None:
        self._put(self.clock_offset_ns, failing)
