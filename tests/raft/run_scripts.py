"""Run scripts from folders: `python tests/raft/run_scripts.py FOLDER… [--rewrite]`.

Shows every difference as a diff, prints a line for each folder and one for all of them last, and
fails if anything differs. `--rewrite` puts our own output into the scripts, for a new story or a
changed one: read it then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from raft_scripts.runner import Tally, rewrite_script, run_script, scripts_in


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="a folder of scripts, or one script")
    parser.add_argument("--rewrite", action="store_true", help="replace what the scripts expect")
    options = parser.parse_args(arguments)
    folders: dict[Path, Tally] = {}
    for given in options.folder:
        scripts = [given] if given.is_file() else scripts_in(given)
        if not scripts:
            print(f"{given}: no scripts here", file=sys.stderr)
            return 2
        for script in scripts:
            if options.rewrite:
                rewrite_script(script)
            folders.setdefault(script.parent, Tally()).add(run_script(script))
    total = Tally()
    for tally in folders.values():
        total.add(tally)
    for difference in total.t2:
        print(f"{difference}\n")
    for folder, tally in folders.items():
        print(f"{folder}: {tally}")
    print(f"scripts: {total}")
    return 1 if total.t1 or total.t2 else 0


if __name__ == "__main__":
    sys.exit(main())
