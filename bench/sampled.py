"""A node that says what its time went into: `aspen node run`, with a thread that looks at the others' stacks.

Each look counts the innermost frame that belongs to one of the parts below. What waits (for events, for work,
for a lock) is not counted; a system call that is waited for, such as a sync, is. The looks are as many a
second as the interpreter lets go of its lock, so shares hold and absolute figures don't. At the end
the counts are written to the file that `ASPEN_BENCH_SAMPLES` names.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from aspen.cli.main import main as aspen

INTERVAL_S = 0.002

# The first of these that is in a frame's file name says whose the time is.
PARTS = (
    ("verify", ("/aspen/pkarr/packet.py", "/nacl/", "/aspen/dns/message.py")),
    ("render", ("/aspen/dns/",)),
    ("lmdb", ("/aspen/state/", "/aspen/raft/storage.py", "/aspen/raft/writer.py", "/lmdb/")),
    ("raft", ("/aspen/raft/", "/aspen/proposer.py")),
    ("quic", ("/aspen/net/", "/aioquic/")),
    ("http", ("/aspen/http/", "/aspen/pkarr/", "/aiohttp/", "/multidict/", "/yarl/")),
    ("loop", ("/asyncio/", "/uvloop/")),
)
_WAITING = frozenset({"wait", "select", "get", "poll", "_recv", "acquire"})


def part_of(frame: FrameType | None) -> str | None:
    """Whose time a stack's is; None if it waits."""
    if frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if name in _WAITING and "/lib/python" in file:
            return None
        if name == "_run" and file.endswith("/aspen/raft/writer.py"):
            return None  # its queue is empty
    while frame is not None:
        file = frame.f_code.co_filename
        for part, marks in PARTS:
            if any(mark in file for mark in marks):
                return part
        frame = frame.f_back
    return "other"


def sample(counts: Counter[str], stop: threading.Event) -> None:
    """Look until told to stop. The main thread's C code (uvloop's waiting) shows as its caller: what it did
    is told by its CPU time, which stands still while it waits."""
    own = threading.get_ident()
    main = threading.main_thread()
    clock = time.pthread_getcpuclockid(main.ident or 0)
    before = time.clock_gettime(clock)
    while not stop.wait(INTERVAL_S):
        now = time.clock_gettime(clock)
        busy, before = now - before > INTERVAL_S / 10, now
        for thread, frame in sys._current_frames().items():
            if thread == own or (thread == main.ident and not busy):
                continue
            if (part := part_of(frame)) is not None:
                counts[part] += 1


def main() -> None:
    counts: Counter[str] = Counter()
    stop = threading.Event()
    thread = threading.Thread(target=sample, args=(counts, stop), daemon=True)
    thread.start()
    try:
        aspen()
    finally:
        stop.set()
        thread.join(1)
        Path(os.environ["ASPEN_BENCH_SAMPLES"]).write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
