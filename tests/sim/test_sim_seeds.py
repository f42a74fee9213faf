"""Two hundred worlds, and the tools that run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import RECORD
from raft_sim.campaign import replay_command, run_seed, run_seeds, total_seen, unequal_hashes
from raft_sim.profile import Fault

RUN = Path(__file__).parent / "run.py"


def test_all_invariants_hold_in_two_hundred_worlds() -> None:
    verdicts = list(run_seeds(range(1, 201), processes=2))
    failures = [
        f"seed {verdict.seed}: {verdict.invariant}: {verdict.detail}\n  {replay_command(verdict.seed)}"
        for verdict in verdicts
        if verdict.invariant
    ]
    assert not failures, "\n".join(failures)
    seen = total_seen(verdicts)
    assert all(seen[f"fault {fault.value}"] for fault in Fault)
    for what in ("snapshots installed", "disk errors found", "leader reads ok", "fault bit_flip"):
        assert seen[what], what
    assert seen["configurations"] > 1_000
    assert seen["terms with a leader"] > 1_000
    assert seen["operations ok"] > 20_000


def test_a_run_does_not_depend_on_hash_seeds() -> None:
    assert unequal_hashes([100, 200]) == []


def test_a_failing_seed_prints_the_command_that_replays_it() -> None:
    name = "skips_log_check"  # one that takes a while to show
    seed = json.loads(RECORD.read_text())[name]["seed"]
    options = ["--start", str(seed), "--mutation", name]
    failed = subprocess.run([sys.executable, str(RUN), *options], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert f"seed {seed} FAILED: " in failed.stdout
    command = failed.stdout.split("replay: ")[1].splitlines()[0]
    replayed = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert replayed.returncode == 1
    invariant = failed.stdout.split("FAILED: ")[1].splitlines()[0]
    assert replayed.stdout.splitlines()[-1] == invariant
    assert any("APP term" in line for line in replayed.stdout.splitlines())


@pytest.mark.parametrize("events", [500, 3_000])
def test_runs_can_be_shorter(events: int) -> None:
    verdict = run_seed(3, events=events)
    assert not verdict.invariant
    assert events < verdict.events + 500
