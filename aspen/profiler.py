"""What a node's time goes into: its threads' stacks, looked at again and again for a few seconds.

Each look counts a thread's stack unless it waits (for events, for work, for a lock); a system call that is
waited for, such as a sync, counts. The looks are as many a second as the interpreter lets go of its lock, so
shares hold and absolute figures don't. Nothing is measured while nobody asks.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import msgspec

from aspen.limits import PROFILE_FRAMES, PROFILE_INTERVAL_MS, PROFILE_STACKS

# The first of these that is in a frame's file name says whose the time is.
PARTS: Final = (
    ("verify", ("/aspen/pkarr/packet.py", "/nacl/", "/aspen/dns/message.py")),
    ("dns", ("/aspen/dns/",)),
    ("lmdb", ("/aspen/state/", "/aspen/raft/storage.py", "/aspen/raft/writer.py", "/lmdb/")),
    ("raft", ("/aspen/raft/", "/aspen/services/proposer.py")),
    ("quic", ("/aspen/net/", "/aioquic/")),
    ("http", ("/aspen/http/", "/aspen/pkarr/", "/aiohttp/", "/multidict/", "/yarl/")),
    ("loop", ("/asyncio/", "/uvloop/")),
)
OTHER: Final = "other"
_WAITING: Final = frozenset({"wait", "select", "get", "poll", "_recv", "acquire", "accept", "_worker"})
_ROOT: Final = str(Path(__file__).parents[1])


class FunctionShare(msgspec.Struct, frozen=True):
    name: str
    """Module and function."""
    place: str
    """File and line where it begins."""
    own: int
    """Looks that found it running itself."""
    total: int
    """… or waiting for what it had called."""


class Profile(msgspec.Struct, frozen=True):
    seconds: float
    looks: int
    samples: int
    """Stacks counted: each look may find several threads at work, or none."""
    parts: dict[str, int]
    """Samples by part of the program."""
    functions: list[FunctionShare]
    """Those with the most samples of their own first."""
    stacks: dict[str, int]
    """Samples by stack: its functions, the outermost first, with semicolons between them."""
    cpu: dict[str, float]
    """Processor seconds of each process meanwhile."""


def is_waiting(frame: FrameType) -> bool:
    """Whether a stack is that of a thread that waits for work."""
    name, file = frame.f_code.co_name, frame.f_code.co_filename
    if name in _WAITING and "/lib/python" in file:
        return True
    return name == "_run" and file.endswith("/aspen/raft/writer.py")  # its queue is empty


def part_of(frame: FrameType | None) -> str:
    """Whose time a stack's is."""
    while frame is not None:
        file = frame.f_code.co_filename
        for part, marks in PARTS:
            if any(mark in file for mark in marks):
                return part
        frame = frame.f_back
    return OTHER


class Looks:
    """Looks at the stacks of all threads but the one that looks.

    The main thread's C code (an event loop's waiting) shows as its caller: what it did is told by its
    processor time, which stands still while it waits.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._main = threading.main_thread().ident or 0
        self._clock = time.pthread_getcpuclockid(self._main)
        self._before = time.clock_gettime(self._clock)

    def at_work(self) -> list[FrameType]:
        """The innermost frames of threads that do something."""
        now = time.clock_gettime(self._clock)
        busy, self._before = now - self._before > self._interval_s / 10, now
        own = threading.get_ident()
        return [
            frame
            for thread, frame in sys._current_frames().items()
            if thread != own and (thread != self._main or busy) and not is_waiting(frame)
        ]


def profile(seconds: float, stop: threading.Event, pids: dict[str, int]) -> Profile:
    """Look for so long, or until told to stop. `pids` are the processes whose processor time is told."""
    interval_s = PROFILE_INTERVAL_MS / 1000
    looks, count = Looks(interval_s), 0
    parts: Counter[str] = Counter()
    stacks: Counter[tuple[CodeType, ...]] = Counter()
    cpu = {name: _cpu_s(pid) for name, pid in pids.items()}
    began = time.monotonic()
    while time.monotonic() - began < seconds and not stop.wait(interval_s):
        count += 1
        for frame in looks.at_work():
            parts[part_of(frame)] += 1
            stack = _stack(frame)
            if stack not in stacks and len(stacks) >= PROFILE_STACKS:
                stack = stack[-1:]
            stacks[stack] += 1
    return Profile(
        seconds=round(time.monotonic() - began, 3),
        looks=count,
        samples=stacks.total(),
        parts=dict(parts.most_common()),
        functions=_functions(stacks),
        stacks=dict(_collapsed(stacks).most_common()),
        cpu={name: round(_cpu_s(pid) - cpu[name], 2) for name, pid in pids.items()},
    )


def _stack(frame: FrameType | None) -> tuple[CodeType, ...]:
    """The functions of a stack, the outermost first."""
    codes: list[CodeType] = []
    while frame is not None and len(codes) < PROFILE_FRAMES:
        codes.append(frame.f_code)
        frame = frame.f_back
    return tuple(reversed(codes))


def _functions(stacks: Counter[tuple[CodeType, ...]]) -> list[FunctionShare]:
    own: Counter[CodeType] = Counter()
    total: Counter[CodeType] = Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
        for code in set(stack):
            total[code] += count
    return [
        FunctionShare(_name(code), f"{_file(code)}:{code.co_firstlineno}", own[code], count)
        for code, count in sorted(total.items(), key=lambda item: (-own[item[0]], -item[1], _name(item[0])))
    ]


def _collapsed(stacks: Counter[tuple[CodeType, ...]]) -> Counter[str]:
    collapsed: Counter[str] = Counter()
    for stack, count in stacks.items():
        collapsed[";".join(map(_name, stack))] += count
    return collapsed


def _name(code: CodeType) -> str:
    module = _file(code).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"{module}:{code.co_qualname}".replace(";", ",")


def _file(code: CodeType) -> str:
    """The file's path below the folder that its package is in."""
    path = code.co_filename
    for mark in ("/site-packages/", f"{_ROOT}/"):
        if mark in path:
            return path.partition(mark)[2]
    library = path.partition("/lib/python")[2]
    return library.partition("/")[2] or path


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process so far; 0 where the system doesn't tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100
