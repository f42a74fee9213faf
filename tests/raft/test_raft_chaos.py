"""Figure 3 of the Raft paper under random schedules: see `raft_chaos`."""

from __future__ import annotations

import pytest
from raft_chaos import Chaos


@pytest.mark.parametrize("seed", range(12))
def test_safety_and_convergence(seed: int) -> None:
    chaos = Chaos(seed)
    chaos.run(2500)
    assert chaos.converge() >= max(chaos.committed)
