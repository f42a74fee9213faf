"""The commands of docs/pkarr-clients.md, run as they stand against a node."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cluster import Cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import blocks_for

from aspen.config import setting_types

DOCUMENT = (Path(__file__).parents[2] / "docs" / "pkarr-clients.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_do_what_the_page_says(
    request: pytest.FixtureRequest, single: Cluster, tmp_path: Path
) -> None:
    node = single.nodes[0]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ASPEN_ADDR": node.addr,
    }
    printed = []
    for block in blocks_for(request)["pkarr-clients.md"]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace("http://127.0.0.1:8080", node.addr)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    assert "signature verified" in printed[0]
    assert "answer 1 of 1: " in printed[1]
    assert "has no records any more" in printed[2]
    key = printed[0].splitlines()[0]
    assert node.request("GET", f"/pkarr/{key}").status == 404


def test_the_settings_on_the_page_exist() -> None:
    types = setting_types()
    for block in blocks("toml"):
        for section, values in tomllib.loads(block).items():
            assert {f"{section}.{name}" for name in values} <= types.keys()


def test_the_imports_on_the_page_work() -> None:
    (code,) = blocks("python")
    exec(code, {})
