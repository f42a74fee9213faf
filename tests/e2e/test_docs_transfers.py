"""docs/transfers.md as it stands: its commands run, and its configurations are good to who reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import blocks_for

PAGE = (Path(__file__).parents[2] / "docs" / "transfers.md").read_text("utf-8")
BIN = Path(sys.executable).parent


def blocks(mark: str) -> list[str]:
    return re.findall(rf"```{mark}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def node(single: Cluster) -> Iterator[Cluster]:
    yield single
    for path in ("/v1/zones/example.com", "/v1/tsig-keys/transfer.example"):
        single.leader().request("DELETE", path)


@pytest.mark.skipif(
    not all(map(shutil.which, ("nsupdate", "dig"))), reason="nsupdate and dig are not installed"
)
def test_the_commands_of_the_page_do_what_it_says(
    request: pytest.FixtureRequest, node: Cluster, tmp_path: Path
) -> None:
    leader = node.leader()
    environment = {**os.environ, "ASPEN_ADDR": leader.addr, "PATH": f"{BIN}:{os.environ['PATH']}"}
    said = []
    for block in blocks_for(request)["transfers.md"]:
        text = block.replace("-p 5300", f"-p {leader.dns_port}").replace(
            "127.0.0.1 5300", f"127.0.0.1 {leader.dns_port}"
        )
        # The secondary of the page isn't there: nobody is told.
        text = text.replace(' \\\n  --notify "192.0.2.7#transfer.example"', "")
        done = subprocess.run(
            ["bash", "-eu", "-c", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        said.append(done.stdout)
    assert "transfer.example." in said[0]
    assert "secret" not in said[0]
    assert any("XFR size" in text and "ns1.example.com." in text for text in said)
    assert [rdata.to_text() for rdata in leader.dig("www.example.com", "A").answer[0]] == ["192.0.2.80"]


@pytest.mark.parametrize(
    ("mark", "name", "checker"),
    [
        ("yaml", "knot.conf", ("knotc", "-c", "{}", "conf-check")),
        ("", "nsd.conf", ("nsd-checkconf", "{}")),
        ("", "named.conf", ("named-checkconf", "{}")),
    ],
)
def test_a_configuration_of_the_page_is_good(
    tmp_path: Path, mark: str, name: str, checker: tuple[str, ...]
) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed")
    # The plain blocks are NSD's and BIND's, in this order.
    texts = blocks(mark) if mark else re.findall(r"\n```\n(key.*?)```", PAGE, flags=re.DOTALL)
    file = tmp_path / name
    file.write_text(texts[-1] if name == "named.conf" else texts[0])
    command = [word.format(file) for word in checker]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
