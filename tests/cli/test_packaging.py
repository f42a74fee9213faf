"""The package's own rules: every module has its room, and installs repeat."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_every_module_of_a_mixed_package_is_a_core_or_a_shell() -> None:
    """Else a new module would escape the rule that cores do no IO."""
    (contract,) = (c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["name"].startswith("Cores"))
    cores, others = set(contract["source_modules"]), set(contract["forbidden_modules"])
    modules = {
        ".".join(("aspen", package, file.stem))
        for package in ("discovery", "dns", "pkarr", "raft", "relay")
        for file in (ROOT / "aspen" / package).glob("*.py")
        if file.stem != "__init__"
    }
    assert modules - cores - others == set(), "list these in pyproject.toml as cores or as shells"
    assert cores - modules == set()
    assert not cores & others


def test_constraints_cover_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    wanted += PROJECT["build-system"]["requires"]
    for requirement in wanted:
        match = re.match(r"[A-Za-z0-9_.-]+", requirement)
        assert match is not None
        assert match[0].lower() in pinned, f"{requirement} is not in constraints.txt"


def test_modules_stay_small() -> None:
    long = [
        f"{file.relative_to(ROOT)}: {count} lines"
        for file in (ROOT / "aspen").rglob("*.py")
        # limits.py is one table, to be read in one sitting.
        if (count := len(file.read_text("utf-8").splitlines())) > 450 and file.name != "limits.py"
    ]
    assert long == []
