"""Every block of code in README and docs is run or read by a test.

`sh` blocks of a page are run in their order beside a cluster of three nodes, as they stand. Those that want
something else (a machine of their own, a file, another server) have a test of their own. A line above the
block names it, invisible to who reads the page:

    <!-- run by: tests/…::test_… -->     that test is given the block by `blocks_for(request)`
    <!-- run by: .ci/run -->             the suite is part of what the block does
    <!-- not run: why -->                nothing does

Blocks in other languages must parse. What is none of that is `text`, or has no language.
"""

from __future__ import annotations

import ast
import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from documented import PAGES, ROOT, Block, blocks, own_ports, run, running_cluster

ALL = [block for page in PAGES for block in blocks(page)]
KILLS_A_NODE = "start.md"
TO_RUN = sorted(
    {block.page for block in ALL if block.language == "sh" and not block.how},
    key=lambda page: (page.name == KILLS_A_NODE, page.name),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, int]]]:
    """One for all pages: three nodes take a while to start."""
    directory, ports = tmp_path_factory.mktemp("documented"), own_ports()
    with running_cluster(directory, ports):
        yield directory, ports


@pytest.mark.skipif(not (shutil.which("dig") and shutil.which("curl")), reason="needs dig and curl")
@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.name)
def test_commands_of_a_page_work_one_after_the_other(
    page: Path, cluster: tuple[Path, dict[str, int]]
) -> None:
    for block in blocks(page):
        if block.language == "sh" and not block.how:
            run(block.code, *cluster)


def test_no_page_is_left_out() -> None:
    assert len(ALL) > 30
    lines = [line for page in PAGES for line in page.read_text("utf-8").splitlines()]
    fences = sum(line.strip().startswith("```") for line in lines)
    assert 2 * len(ALL) == fences  # every fence belongs to a block that was seen


def test_every_command_is_run() -> None:
    """A block that nothing runs needs a better reason than those that were given so far."""
    assert [f"{block.name}: {block.what}" for block in ALL if block.how == "not run"] == []


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.how == "run by"], ids=lambda block: f"{block.name} {block.what}"
)
def test_a_block_that_another_test_runs_is_asked_for_there(block: Block) -> None:
    file, _, name = block.what.partition("::")
    text = (ROOT / file).read_text("utf-8")
    if file == ".ci/run":
        for line in block.code.splitlines():
            assert f"\n{line.partition(' #')[0].rstrip()} " in text, line
        return
    (test,) = (
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name
    )
    given = [ast.unparse(one) for call in ast.walk(test) if isinstance(call, ast.Call) for one in call.args]
    assert "request" in given, f"{name} doesn't ask for its blocks"


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.language != "sh"], ids=lambda b: b.page.name
)
def test_other_blocks_parse(block: Block) -> None:
    def python(code: str) -> Any:
        return compile(code, block.page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)

    def crontab(code: str) -> None:
        assert all(len(line.split(maxsplit=5)) == 6 for line in code.splitlines())

    readers = {
        "crontab": crontab,
        "json": json.loads,
        "toml": tomllib.loads,
        "ini": ConfigParser(strict=False, interpolation=None).read_string,
        "yaml": yaml.safe_load,
        "python": python,
        "promql": lambda code: pytest.importorskip("promql_parser").parse(code),
        "text": str,
        "": str,
    }
    assert block.language in readers, f"{block.page.name}: a block in {block.language}"
    readers[block.language](block.code)
