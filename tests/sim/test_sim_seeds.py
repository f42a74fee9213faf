"""Two hundred seeded worlds: no invariant broken, every history linearizable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run.py")
SEEDS = 200


def test_two_hundred_seeds_hold() -> None:
    processes = os.cpu_count() or 1
    command = [sys.executable, str(RUN), f"--seeds={SEEDS}", "--start=1", f"--processes={processes}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = re.search(rf"sim: {SEEDS} seeds from 1, 0 failed, (\d+) events", done.stdout)
    assert said, done.stdout + done.stderr
    assert done.returncode == 0
    assert int(said[1]) > SEEDS * 5_000
