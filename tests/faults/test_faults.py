"""The fault runner for a short while, its stories, and proof that its judgement bites.

The runner is a program of its own, since it moves into namespaces. What this machine doesn't grant it is
left out, each with its reason in one line of what it prints.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fault_runner.judge import linearizable, revisions_in_order, silent_without_sync
from fault_runner.nemesis import NoSync
from fault_runner.workload import Told
from raft_sim.history import History, Kind, Operation, Outcome

RUN = Path(__file__).with_name("run.py")
SECONDS = os.environ.get("ASPEN_TEST_FAULT_SECONDS", "20")
KEY_SECONDS = os.environ.get("ASPEN_TEST_KV_SECONDS", "8")


def run(folder: Path, *arguments: str, seed: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), "--seed", str(seed), "--keep", str(folder), *arguments]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)
    print(done.stdout)
    print(done.stderr)
    return done


def test_stories_of_single_faults(tmp_path: Path) -> None:
    stories = "stepping_clocks,full_disk,failing_fsync,one_way_link"
    done = run(tmp_path / "run", "--seconds", "0", "--stories", stories)
    assert done.returncode == 0
    assert done.stdout.endswith("verdict: ok\n")


def test_clients_of_a_harmed_cluster_were_told_the_truth(tmp_path: Path) -> None:
    done = run(tmp_path / "run", "--seconds", SECONDS)
    assert done.returncode == 0
    assert done.stdout.endswith("verdict: ok\n")


def test_what_five_clients_do_with_keys_is_one_history(tmp_path: Path) -> None:
    """Put, get, compare and swap, delete and transactions; stale reads are of a moment, and don't go back."""
    done = run(
        tmp_path / "run", "--workload", "keys", "--seconds", KEY_SECONDS, "--faults", "kill,stop,partition"
    )
    assert done.returncode == 0
    assert done.stdout.endswith("verdict: ok\n")


def test_stale_reads_that_pass_for_fresh_ones_are_found_out(tmp_path: Path) -> None:
    """Of real nodes, asked so that they may lie: else a pass would mean nothing."""
    done = run(tmp_path / "run", "--seconds", "4", "--faults", "stop", "--reads", "stale")
    assert done.returncode == 1
    assert "FAILED linearizable" in done.stdout


# --- the judges -------------------------------------------------------------------------------


def told(
    called_s: float, ended_s: float, revision: int, *, kind: Kind = Kind.WRITE, node_id: int = 1
) -> Told:
    return Told(Operation(1, kind, 1, value=1), node_id, called_s, ended_s, revision, 1)


def test_a_lost_write_is_found_out() -> None:
    history = History()
    for operation, found in ((Operation(1, Kind.WRITE, 7, value=5), 0), (Operation(2, Kind.READ, 7), 0)):
        history.call(operation)
        history.end(operation, Outcome.OK, found)
    assert "key 7" in (linearizable(history.operations) or "")


def test_a_write_of_unknown_outcome_may_show_late_or_never() -> None:
    history = History()
    write, read = Operation(1, Kind.WRITE, 7, value=5), Operation(2, Kind.READ, 7)
    history.call(write)
    history.end(write, Outcome.UNKNOWN, 0)
    history.call(read)
    history.end(read, Outcome.OK, 0)
    later = Operation(2, Kind.READ, 7)
    history.call(later)
    history.end(later, Outcome.OK, 5)
    assert linearizable(history.operations) is None


def test_revisions_must_follow_real_time_over_all_keys() -> None:
    assert revisions_in_order([told(0, 1, 5), told(2, 3, 6), told(2, 4, 7)]) is None
    assert revisions_in_order([told(0, 3, 6), told(1, 2, 5)]) is None  # at the same time: in any order
    assert revisions_in_order([told(0, 1, 5), told(2, 3, 5, kind=Kind.READ)]) is None
    assert revisions_in_order([told(0, 1, 5), told(2, 3, 5)])
    assert revisions_in_order([told(0, 1, 5), told(2, 3, 4, kind=Kind.READ)])


def test_an_acknowledgement_by_a_node_that_can_not_sync_is_found_out() -> None:
    periods = [NoSync(node_id=1, began_s=1.0, ended_s=5.0, halted=True)]
    assert silent_without_sync([told(0.9, 1.1, 5), told(2, 3, 6, node_id=2), told(6, 7, 7)], periods) is None
    assert silent_without_sync([told(2, 3, 6)], periods)
