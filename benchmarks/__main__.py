"""The command: `python -m benchmarks [NAME ...] [--json FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks import forecast, lanes, machine, results, scale, seed, sweep
from lstm.kernels import persistent

BENCHMARKS = {
    "seed": seed.run,
    "forecast": forecast.run,
    "sweep": sweep.run,
    "sweep-cuda": sweep.run_on_cuda,
    "lanes": lanes.run,
    "scale": scale.run,
}


def main() -> None:
    """Run the benchmarks named, all by default; print each table, and keep it in the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(BENCHMARKS)}; all by default, sweep-cuda where there is a GPU",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results are kept")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of a race")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads to try")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if "sweep-cuda" in chosen.names and not machine.gpus():
        parser.error("sweep-cuda needs a CUDA device; torch sees none")
    console = Console()
    every = [name for name in BENCHMARKS if name != "sweep-cuda" or _has_both_on_cuda()]
    for name in chosen.names or every:
        # Before the benchmark loads the machine itself.
        described = machine.describe()
        result = BENCHMARKS[name](chosen.threads, chosen.repeats)
        results.show(console, result.table())
        if chosen.json is not None:
            results.keep(chosen.json, result, described)


def _has_both_on_cuda() -> bool:
    return bool(machine.gpus()) and persistent.is_installed()


if __name__ == "__main__":
    main()
