"""`make bench [ONLY=name,…]`: measure, print one JSON line per figure; exit 1 when one misses what it is to reach."""

import asyncio
import json
import statistics
import sys

from benchmarks.figures import FIGURES


async def main(only: list[str]) -> int:
    """Measure the figures named, or all; the exit code."""
    missed = 0
    for name in only or FIGURES:
        measure, unit, reach, more = FIGURES[name]
        runs = await measure()
        value = statistics.median(runs)
        reached = value >= reach if more else value <= reach
        missed += not reached
        line = {"name": name, "value": round(value, 2), "unit": unit, "runs": [round(r, 2) for r in runs]}
        line |= {"to_reach": reach, "reached": reached}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main([name for name in ",".join(sys.argv[1:]).split(",") if name])))
