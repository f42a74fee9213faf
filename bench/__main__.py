"""Run every benchmark, each in a process of its own; the exit code says whether all of them ran."""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

NAMES = ("backup", "dns", "net", "put", "shares", "snapshot")


def main() -> int:
    here = Path(__file__).parent
    wanted = sys.argv[1:] or [name for name in NAMES if (here / f"{name}.py").exists()]
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    build = "optimised" if optimised else "built without --enable-optimizations, which costs about a fifth"
    print(f"# Python {platform.python_version()}, {build}")
    failed = []
    for name in wanted:
        print(f"# {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=here.parent, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"# failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
