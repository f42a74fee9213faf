"""A node that says what its time went into: `aspen node run`, with a thread that looks at the others' stacks
(`aspen.profiler`). At the end the counts are written to the file that `ASPEN_BENCH_SAMPLES` names.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path

from aspen.cli.main import main as aspen
from aspen.profiler import Looks, part_of

INTERVAL_S = 0.002


def sample(counts: Counter[str], stop: threading.Event) -> None:
    """Look until told to stop."""
    looks = Looks(INTERVAL_S)
    while not stop.wait(INTERVAL_S):
        counts.update(part_of(frame) for frame in looks.at_work())


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
