"""Benchmarks beside peers. `python -m bench` runs all of them, `python -m bench.put` one.

Every figure is one line: `bench: <name> aspen=<x> peer=<y> (<peer>) ratio=<x/y>`. Rounds of ours and of
the peer's interleave, so that both meet the same weather; what is printed are medians.
"""
