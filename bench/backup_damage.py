"""Damaged backups: a large one cut short at many places, and with single bits flipped all over it.

    python -m bench.backup_damage FILE [--places 20]

`FILE` is a backup that may be spoiled: bits are flipped in it and back again, and in the end it is cut
shorter and shorter. Each time `aspen cluster verify` and `restore` must refuse it, name the place (the frame
that holds the bit, or the byte where the file ends), and leave nothing where it was to be restored.
`python -m bench.backup` ends with this.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aspen.limits import BACKUP_READ_BYTES
from aspen.state.backup_format import Decoder

PLACES = 20
_OPENING_BYTES = 10
_BIT_NAMES = 0x5EED


@dataclass(frozen=True, slots=True)
class Frames:
    """Where the frames of a whole backup begin, the header's first, the trailer's last."""

    starts: list[int]
    size: int

    @classmethod
    def of(cls, file: Path) -> Frames:
        decoder, starts = Decoder(), []
        with file.open("rb") as source:
            while data := source.read(BACKUP_READ_BYTES):
                for read in decoder.feed(data):
                    starts.append(read.offset)
                    trailer = decoder.offset
        decoder.finish()
        return cls([_OPENING_BYTES, *starts, trailer], decoder.offset)

    def place(self, byte: int) -> tuple[int, str]:
        """Where the frame with this byte begins, and its name."""
        number = max((n for n, start in enumerate(self.starts) if start <= byte), default=-1)
        if number <= 0:
            return (self.starts[0], "header") if number == 0 else (0, "")
        name = "trailer" if number == len(self.starts) - 1 else f"chunk {number}"
        return self.starts[number], name


def refused(file: Path, folder: Path) -> list[str]:
    """What `verify` and `restore` say of a damaged file; nothing must be left of the restoring."""
    target, said = folder / "restored", []
    restore = ["restore", str(file), "--data-dir", str(target), "--node-id", "1"]
    for arguments in (["verify", str(file)], restore):
        command = [sys.executable, "-m", "aspen.cli.main", "cluster", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        said.append(done.stderr.strip())
    assert not target.exists(), sorted(target.iterdir())
    return said


def check_flips(file: Path, frames: Frames, folder: Path, places: int) -> Iterator[str]:
    """Bits spread over the whole file, one at a time; which one within its part is drawn."""
    rng = random.Random(_BIT_NAMES)
    for part in range(places):
        byte = rng.randrange(frames.size * part // places, frames.size * (part + 1) // places)
        start, name = frames.place(byte)
        with _flipped(file, byte, 1 << rng.randrange(8)):
            for text in refused(file, folder):
                assert name in text, (byte, name, text)
                assert f"at byte {start}:" in text, (byte, start, text)
        yield f"byte {byte} of {name} flipped: {text}"


def check_cuts(file: Path, frames: Frames, folder: Path, places: int) -> Iterator[str]:
    """Cut within frames, and every fourth time right behind one."""
    for part in range(places, 0, -1):
        byte = frames.size * part // places - 1
        if part % 4 == 0:
            byte = frames.place(byte)[0]
        os.truncate(file, byte)
        start, name = frames.place(byte)
        for text in refused(file, folder):
            assert f"at byte {byte}: the file is cut short" in text, (byte, text)
            assert name in text, (byte, name, text)
            assert f"which begins at {start}" in text, (byte, start, text)
        yield f"cut at byte {byte} in {name}: {text}"


@contextlib.contextmanager
def _flipped(file: Path, byte: int, bit: int) -> Iterator[None]:
    def flip() -> None:
        with file.open("r+b") as opened:
            opened.seek(byte)
            (value,) = opened.read(1)
            opened.seek(byte)
            opened.write(bytes([value ^ bit]))

    flip()
    yield
    flip()


def bench(file: Path, name: str, places: int = PLACES, say: bool = False) -> None:
    """Spoils the file."""
    frames = Frames.of(file)
    for kind, check in (("flips", check_flips), ("cuts", check_cuts)):
        began, count = time.perf_counter(), 0
        with tempfile.TemporaryDirectory(prefix="aspen-damage-", dir=file.parent) as folder:
            for line in check(file, frames, Path(folder), places):
                count += 1
                if say:
                    print(line, flush=True)
        seconds = time.perf_counter() - began
        print(
            f"bench: {name}_{kind}_refused aspen={count} of {places} "
            f"({len(frames.starts)} frames, {frames.size} bytes; verify and restore, {seconds:.0f} s)",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.backup_damage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--places", type=int, default=PLACES)
    options = parser.parse_args()
    bench(options.file, "backup", options.places, say=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
