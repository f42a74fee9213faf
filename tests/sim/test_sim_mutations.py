"""The mutation gate: the simulator finds every seeded bug.

Each is found again by the seed that found it last (`mutants.json`, written by `mutants.py --record`).
If the core has changed so much that this seed finds it no longer, others are tried.
"""

from __future__ import annotations

import json

import pytest
from mutants import RECORD, find
from raft_sim.campaign import run_seed
from raft_sim.mutation import Patch, mutated
from raft_sim.mutations import MUTATIONS

from aspen.raft import leader, quorum, replication

_RECORD = json.loads(RECORD.read_text())
_MORE_SEEDS = 300


@pytest.mark.parametrize("name", MUTATIONS)
def test_is_found(name: str) -> None:
    recorded = _RECORD[name]
    verdict = run_seed(recorded["seed"], mutation=name)
    if not verdict.invariant:
        found = find(name, most_seeds=_MORE_SEEDS)
        assert found is not None, f"{name}: neither seed {recorded['seed']} nor {_MORE_SEEDS} others"


def test_there_are_enough_of_them() -> None:
    assert len(MUTATIONS) >= 20
    assert set(_RECORD) == set(MUTATIONS)
    assert all(1 <= recorded["seed"] <= 2_000 for recorded in _RECORD.values())


_REAL_BUGS = (
    "hashicorp/raft #695",
    "hashicorp/raft #697",
    "openraft #1802",
    "openraft #1808",
    "openraft #1964",
    "etcd #20418",
    "etcd #7331",
    "etcd #14370",
    "etcd #22442",
    "etcd #11038",
    "hashicorp/raft #606",
    "CCF #5325",
    "TiKV #8381",
    "redisraft #23",
    "Cloudflare, 2020",
)


@pytest.mark.parametrize("bug", _REAL_BUGS)
def test_each_real_bug_has_its_mutation(bug: str) -> None:
    assert [name for name, mutation in MUTATIONS.items() if mutation.origin == bug]


def test_each_says_what_is_wrong() -> None:
    assert all(mutation.text.endswith(".") for mutation in MUTATIONS.values())


def test_a_mutation_is_in_everywhere_and_goes_without_a_trace() -> None:
    original, handler = quorum.joint_committed_index, leader._handle_check_quorum
    with mutated("joint_commit_by_one_half"):
        assert replication.joint_committed_index is not original
        assert quorum.joint_committed_index is not original
    with mutated("deaf_leader_stays"):
        assert handler not in leader._HANDLERS.values()
    assert replication.joint_committed_index is quorum.joint_committed_index is original
    assert handler in leader._HANDLERS.values()


def test_a_mutation_of_what_is_gone_is_an_error() -> None:
    patch = Patch()
    with pytest.raises(LookupError):
        patch.function(lambda: None, lambda: None)
    with pytest.raises(KeyError):
        patch.attribute(quorum, "no_such_name", None)


def test_without_a_mutation_the_recorded_seeds_hold() -> None:
    for seed in sorted({recorded["seed"] for recorded in _RECORD.values()}):
        verdict = run_seed(seed)
        assert not verdict.invariant, f"seed {seed}: {verdict.invariant}: {verdict.detail}"
