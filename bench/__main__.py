"""Run every benchmark, each in a process of its own; the exit code says whether all of them ran.

    python -m bench [--json FILE] [NAME ...] [--OPTION=VALUE ...]

Options that aren't known here go to the benchmarks named: `python -m bench net --seconds=1`.
With `--json`, the figures go into a file as well, for `python scripts/plots.py FILE` to draw.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, Final

NAMES: Final = ("backup", "dns", "net", "put", "shares", "snapshot")
FIGURE: Final = re.compile(
    r"^bench: (?P<name>\S+) aspen=(?P<aspen>[\d.]+)"
    r"(?: peer=(?P<peer>[\d.]+) \((?P<peer_name>[^)]+)\) ratio=(?P<ratio>[\d.]+))?"
)


def main() -> int:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, for machines")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    options, further = parser.parse_known_args()
    if further and not options.names:
        parser.error(f"{further[0]}: for which benchmark?")
    wanted = options.names or [name for name in NAMES if (here / f"{name}.py").exists()]
    print(f"# Python {platform.python_version()}, {build()}")
    failed: list[str] = []
    figures: list[dict[str, Any]] = []
    for name in wanted:
        print(f"# {name}", flush=True)
        if run(name, here.parent, figures, further):
            failed.append(name)
    if failed:
        print(f"# failed: {', '.join(failed)}")
    if options.json is not None:
        machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
        said = {"machine": machine, "figures": figures}
        options.json.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    return 1 if failed else 0


def build() -> str:
    """How this Python was built: one without optimisations is about a fifth slower."""
    if sys.base_prefix == "/usr":
        return "the distribution's"  # which optimises without saying so (Debian does)
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return "optimised" if optimised else "built without --enable-optimizations, which costs about a fifth"


def run(name: str, folder: Path, figures: list[dict[str, Any]], options: list[str]) -> int:
    """Run one, show what it says, and keep its figures; its exit code."""
    command = [sys.executable, "-m", f"bench.{name}", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := figure(line):
                figures.append({"bench": name, **found})
    return process.returncode


def figure(line: str) -> dict[str, Any] | None:
    """What a line of a benchmark tells: `bench: <name> aspen=<x> peer=<y> (<peer>) ratio=<x/y>`."""
    found = FIGURE.match(line)
    if found is None:
        return None
    told: dict[str, Any] = {"name": found["name"], "aspen": float(found["aspen"])}
    if found["peer"] is not None:
        told |= {"peer": float(found["peer"]), "peer_name": found["peer_name"]}
    return told


if __name__ == "__main__":
    raise SystemExit(main())
