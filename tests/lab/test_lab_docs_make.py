"""The targets of the Makefile that README and docs name, in a checkout on a machine that has all ports free.

What takes minutes is given less to do, by the variables that it has for that. `make test` as a whole is what
these tests are part of: `.ci/run` runs it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import ROOT, blocks_for
from lab import Lab
from machines import Machine, machine

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")

READY = "Aspen is ready"
LESS = {
    "make fmt": {},
    "make bench": {"ARGS": "net --seconds=0.1"},
    'make test ARGS="tests/e2e': {},
    "make test ARGS=tests/raft": {"PYTEST_ADDOPTS": "-k quorum"},
    "make scripts": {},
    "make sim": {"SEEDS": "2"},
    "make mutants": {"ARGS": "answers_before_persist"},
    "make faults": {"SECONDS": "1", "ARGS": "--clients 2 --publishers 1 --faults kill"},
}
"""How a command begins → what it is given in the environment."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose folder holds the repository, its environment made and up to date."""
    lab = Lab(tmp_path_factory.mktemp("checkout"))
    try:
        host = lab.host("machine").plug(lab.network("lan"), "192.0.2.1/24")
        with machine(host) as made:
            ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "node_modules")
            shutil.copytree(ROOT, made.home, ignore=ignored, dirs_exist_ok=True)
            environment = made.home / ".venv"
            environment.mkdir()
            for part in ("bin", "lib", "pyvenv.cfg"):
                (environment / part).symlink_to(Path(sys.prefix) / part)
            for stamp in (".installed", ".installed-test"):
                (environment / stamp).touch()
            yield made
    finally:
        lab.close()


def lines(block: str) -> list[str]:
    """Its commands, without what they are said to do."""
    return [line.partition(" #")[0].rstrip() for line in block.splitlines()]


def do(checkout: Machine, command: str) -> str:
    """Run it to its end; what it said."""
    (given,) = [given for begin, given in LESS.items() if command.startswith(begin)]
    return checkout.run(command, timeout_s=240, **given)


def test_one_node_from_a_checkout(request: pytest.FixtureRequest, checkout: Machine) -> None:
    run, whole_suite = lines(blocks_for(request)["README.md"][0])
    running = checkout.start(run, READY)
    assert f"{READY}: 1 node," in running.log()
    running.stop()
    assert f"\n{whole_suite} " in (ROOT / ".ci" / "run").read_text()


def test_three_nodes_from_a_checkout(request: pytest.FixtureRequest, checkout: Machine) -> None:
    """By `make`, and by the command that it stands for; and a fourth beside them."""
    pages = blocks_for(request)
    (dev,) = pages["discovery.md"]
    make, one_more = pages["README.md"]
    assert pages["start.md"] == [make]
    assert dev.strip() in checkout.run(f"make --dry-run {make.split()[1]}")
    cluster = checkout.start(make, READY)
    assert f"{READY}: 3 nodes," in cluster.log()
    for place in ("127.0.0.1:5300", "http://127.0.0.1:8082", "127.0.0.1:7302"):
        assert place in cluster.log()
    checkout.start(one_more, "promoted: node 4 is one of 4 voters").stop()
    cluster.stop()


def test_what_contributors_make(request: pytest.FixtureRequest, checkout: Machine) -> None:
    """But for `make cluster`, which is the README's."""
    targets, one_scenario = blocks_for(request)["hacking.md"]
    said = {command: do(checkout, command) for command in lines(targets) if command != "make cluster"}
    assert "bench: net_round_trips aspen=" in said["make bench"]
    assert "1 passed" in do(checkout, one_scenario)


def test_what_judges_the_core(request: pytest.FixtureRequest, checkout: Machine) -> None:
    (targets,) = blocks_for(request)["raft.md"]
    test, scripts, sim, mutants, faults = (do(checkout, command) for command in lines(targets))
    assert " passed" in test
    assert "scripts: T1 " in scripts
    assert "sim: 2 seeds from 1, 0 failed" in sim
    assert "1 bugs, 1 found" in mutants
    assert "verdict: ok" in faults
