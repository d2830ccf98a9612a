"""The same weights from 1, 2 and 4 workers that share one GPU, in fp32 and bf16; and recovery there.

The three examples, each trained to its end with 1, 2 and 4 workers, and with 2 of which one is killed on the way.
All four must end with the same `weights_sha256`; the killed one also gives the seconds from SIGKILL to the next
committed step (a new CUDA context is most of them).

Needs CUDA; exit code 1 if any weights differ. `--tiny --device cpu` shows that the script works, and the same law on
the CPU.
"""

from __future__ import annotations

import importlib.util
import random
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, console, device_missing, machine, table, write_results
from runs import Run, kill_and_time

FLAGS = {"gpt": ["--steps", "150"], "digits": ["--steps", "200"], "hf": ["--steps", "150"]}
TINY = {
    "gpt": shlex.split("--steps 80 --layers 1 --width 32 --context 32 --batch-size 8"),
    "digits": shlex.split("--steps 120 --width 8 --batch-size 32"),
    "hf": shlex.split("--steps 80 --layers 1 --width 32 --context 32 --batch-size 8"),
}
NEEDS = {"gpt": "torch", "digits": "sklearn", "hf": "transformers"}
PRECISIONS = ("fp32", "bf16")
WORKERS = (1, 2, 4)
DEADLINE = 240.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small models, for any device")
    parser.add_argument("--examples", nargs="+", default=list(FLAGS), choices=list(FLAGS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    options = parser.parse_args()
    if device_missing(options.device):
        return
    quick = options.quick or options.tiny
    facts = machine()
    measured = []
    with tempfile.TemporaryDirectory(prefix="same-weights-") as folder:
        for example in available(options.examples):
            for precision in options.precisions:
                flags = [*(TINY if quick else FLAGS)[example], "--precision", precision]
                target = Path(folder) / f"{example}-{precision}"
                measured.append(
                    {"example": example, "precision": precision, **train_all(target, flags, options.device)}
                )
                console.print(f"{example} {precision}: {verdict(measured[-1])}")
    show(measured)
    write_results("same_weights", quick, facts, {"device": options.device, "measured": measured})
    sys.exit(0 if all(figures["same"] for figures in measured) else 1)


def available(examples: list[str]) -> Iterator[str]:
    """Those whose package is installed; says which are not."""
    for example in examples:
        if importlib.util.find_spec(NEEDS[example]) is None:
            console.print(f"{example} skipped: {NEEDS[example]} is not installed.")
        else:
            yield example


def train_all(folder: Path, flags: list[str], device: str) -> dict[str, Any]:
    """The runs of one example in one precision."""
    job_file = ROOT / "examples" / f"{folder.name.partition('-')[0]}.py"
    weights, seconds = {}, {}
    for workers in WORKERS:
        with Run(folder / str(workers), job_file, flags, options_of(workers, device)) as run:
            result = run.finish(DEADLINE)
        weights[str(workers)], seconds[str(workers)] = result["weights_sha256"], result["seconds"]
    total = int(flags[flags.index("--steps") + 1])
    with Run(folder / "killed", job_file, flags, options_of(2, device)) as run:
        run.wait_for_step(total // 10, DEADLINE)
        kill = kill_and_time(run, 2, random.Random(0), DEADLINE, delay=(0.0, 0.05))
        result = run.finish(DEADLINE)
    weights["2, one killed"] = result["weights_sha256"]
    same = len(set(weights.values())) == 1 and None not in weights.values()
    figures = {"same": same, "weights_sha256": weights, "seconds": seconds, "recovery": kill.as_dict()}
    return figures | {"recoveries": result["recoveries"], "deviations": result["deviations"]}


def options_of(workers: int, device: str) -> list[str]:
    shared = ["--workers-per-device", str(workers)] if device == "cuda" else []
    return ["--device", device, "--workers", str(workers), *shared]


def verdict(figures: dict[str, Any]) -> str:
    return "the same weights" if figures["same"] else f"DIFFERENT weights: {figures['weights_sha256']}"


def show(measured: list[dict[str, Any]]) -> None:
    rows = []
    for figures in measured:
        recovered = figures["recovery"]["seconds"]
        rows.append(
            [
                f"{figures['example']}, {figures['precision']}",
                "yes" if figures["same"] else "NO",
                figures["weights_sha256"]["1"][:12],
                *(f"{seconds:.1f}" for seconds in figures["seconds"].values()),
                f"{recovered:.2f}" if recovered is not None else "-",
            ]
        )
    columns = ["", "same", "weights", *(f"s, {n} workers" for n in WORKERS), "recovery s"]
    table(f"Weights of {', '.join(map(str, WORKERS))} workers, and of 2 with one killed", columns, rows)


if __name__ == "__main__":
    main()
