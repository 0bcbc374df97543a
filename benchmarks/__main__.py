"""The command: `python -m benchmarks [NAME ...] [--json FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks import forecast, lanes, machine, precision, results, scale, search, seed, sweep, traffic
from lstm.kernels import library

BENCHMARKS = {
    "seed": seed.run,
    "seed-cuda": seed.run_on_cuda,
    "forecast": forecast.run,
    "beside": forecast.run_beside,
    "sweep": sweep.run,
    "sweep-gru": sweep.run_gru,
    "sweep-head": sweep.run_heads,
    "sweep-mixed": sweep.run_mixed,
    "precision": precision.run,
    "sweep-cuda": sweep.run_on_cuda,
    "lanes": lanes.run,
    "lanes-traffic": traffic.run,
    "lanes-cuda": lanes.run_on_cuda,
    "search-cuda": search.run_on_cuda,
    "scale": scale.run,
}
ON_CUDA = ("seed-cuda", "sweep-cuda", "lanes-cuda", "search-cuda")
MIXED = ("sweep-mixed", "precision")


def main() -> None:
    """Run the benchmarks named, all by default; print each table, and keep it in the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(BENCHMARKS)}; all by default that this machine can run",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results are kept")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of a race")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads to try")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if not machine.gpus() and (asked := [name for name in chosen.names if name in ON_CUDA]):
        parser.error(f"{asked[0]} needs a CUDA device; torch sees none")
    if not library.mixed_codes() and (asked := [name for name in chosen.names if name in MIXED]):
        parser.error(f"{asked[0]} needs a processor with products of bfloat16, and a compiler at the install")
    console = Console()
    missing = [*(() if machine.gpus() else ON_CUDA), *(() if library.mixed_codes() else MIXED)]
    every = [name for name in BENCHMARKS if name not in missing]
    for name in chosen.names or every:
        # Before the benchmark loads the machine itself.
        described = machine.describe()
        result = BENCHMARKS[name](chosen.threads, chosen.repeats)
        results.show(console, result.table())
        if chosen.json is not None:
            results.keep(chosen.json, result, described)


if __name__ == "__main__":
    main()
