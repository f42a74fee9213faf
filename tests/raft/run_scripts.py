"""Run scripts from a directory: `python tests/raft/run_scripts.py DIR [-v] [--rewrite]`.

Prints a line for each folder and fails if a checkpoint or a transcript differs; `-v` shows how.
`--rewrite` puts our own output into the scripts, for a new story or a changed one: read it then.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from raft_scripts.runner import Tally, rewrite_script, run_script, scripts_in


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="+")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every difference")
    parser.add_argument("--rewrite", action="store_true", help="replace what the scripts expect")
    options = parser.parse_args()
    total = Tally()
    for directory in options.directory:
        scripts = [directory] if directory.is_file() else scripts_in(directory)
        if not scripts:
            print(f"{directory}: no scripts")
            return 2
        for script in scripts if options.rewrite else ():
            rewrite_script(script)
        for folder in sorted({script.parent for script in scripts}):
            tally = Tally()
            for script in scripts:
                if script.parent == folder:
                    tally.add(run_script(script))
            print(f"{folder}: {tally}")
            total.add(tally)
    for difference in total.t2:
        print(f"\n{difference}" if options.verbose else f"differs: {difference.case}")
    print(f"all: {total}")
    return 1 if total.t1 or total.t2 else 0


if __name__ == "__main__":
    sys.exit(main())
