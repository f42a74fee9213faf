"""Each test of the kit runs once over each backend."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backends import Backend, Deterministic, Raft


@pytest.fixture(params=["deterministic", "raft"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    chosen: Backend = Deterministic() if request.param == "deterministic" else Raft(tmp_path)
    yield chosen
    await chosen.close()
