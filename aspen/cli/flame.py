"""A flame graph as SVG: each function a bar over whoever called it, as wide as its share of the samples.

The file needs nothing else to be looked at: names are in the bars where they fit, and in their tooltips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Final

_WIDTH: Final = 1_400
_ROW: Final = 18
_CHAR: Final = 6.6
"""Width of a character of the font."""
_LEAST: Final = 0.5
"""A narrower bar is not drawn."""
_HUES: Final = {"aspen": 25, "uvloop": 200, "asyncio": 200, "aioquic": 285, "aiohttp": 110}
_OTHER_HUE: Final = 50


@dataclass(slots=True)
class _Bar:
    samples: int = 0
    callees: dict[str, _Bar] = field(default_factory=dict)


def flame_graph(stacks: Mapping[str, int], title: str) -> str:
    """The document. `stacks` are functions joined by semicolons, the outermost first."""
    root = _Bar()
    for stack, count in stacks.items():
        bar = root
        bar.samples += count
        for name in stack.split(";"):
            bar = bar.callees.setdefault(name, _Bar())
            bar.samples += count
    depth = _depth(root)
    height = (depth + 2) * _ROW
    scale = _WIDTH / max(1, root.samples)
    bars = "\n".join(_bars(root, 0.0, height - 2 * _ROW, scale, root.samples))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="monospace" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="6" y="13">{escape(title)}</text>\n{bars}\n</svg>\n'
    )


def _depth(bar: _Bar) -> int:
    return 1 + max(map(_depth, bar.callees.values()), default=0)


def _bars(bar: _Bar, x: float, y: int, scale: float, samples: int) -> Iterator[str]:
    """The bars of what `bar` called, and those over them; a row higher each."""
    for name, callee in sorted(bar.callees.items()):
        width = callee.samples * scale
        if width >= _LEAST:
            share = f"{name}: {callee.samples} samples, {100 * callee.samples / samples:.1f} %"
            yield (
                f'<g><title>{escape(share)}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
                f'height="{_ROW - 1}" rx="1" fill="{_colour(name)}"/>{_label(name, x, y, width)}</g>'
            )
            yield from _bars(callee, x, y - _ROW, scale, samples)
        x += width


def _label(name: str, x: float, y: int, width: float) -> str:
    room = int((width - 6) / _CHAR)
    if room < 3:
        return ""
    short = name.rpartition(":")[2] if len(name) > room else name
    shown = short if len(short) <= room else short[: room - 1] + "…"
    return f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(shown)}</text>'


def _colour(name: str) -> str:
    """By package, a little different for each function."""
    hue = _HUES.get(name.partition(".")[0].partition(":")[0], _OTHER_HUE)
    shade = hashlib.blake2b(name.encode(), digest_size=1).digest()[0]
    return f"hsl({hue},{65 + shade % 20}%,{66 + shade % 13}%)"
