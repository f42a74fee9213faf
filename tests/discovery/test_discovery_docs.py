"""What docs/discovery.md shows as configuration loads as it stands, and nothing in it is without effect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aspen.config.sources import load_config

PAGE = Path(__file__).parents[2] / "docs" / "discovery.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_settings_is_good_as_it_stands(block: str, tmp_path: Path) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text(block)
    flags = {"node_id": 1, "cookie": "only-for-this-test-4711", "data_dir": str(tmp_path / "node")}
    loaded = load_config(config_file=file, environment={}, flags=flags)
    assert not [text for text in loaded.validate() if "no effect" in text]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 4
