"""Policies by the clock: seconds until a stated loss, of every `--sync`, beside DDP over gloo.

Seven parts, each with a result file of its own; 4 workers everywhere:

a, equal: examples/gpt.py (small) and examples/digits.py with `manyhands train`, all workers alike.
b, slow_worker: worker 1 is three times slower, everywhere by the same brake; beside it also an asynchronous parameter
  server of Ray actors as Ray's documentation shows it, if Ray is there.
c, star: workers and servers on emulated hosts behind one switch, 100 Mbit/s each (needs root).
g, star_light: the same hosts, and a gpt of four times the parameters with a quarter of the tokens in a batch.
d, slow_link: the same, but one worker's link has 20 Mbit/s.
f, slow_machine: as b, but all workers are held back to a quarter of their speed (and worker 1 to a twelfth), so that
  two cores are enough for four: as if each had a machine of its own.
e, rates: bytes/s of synchronous servers and of all-reduce on such links beside what the cost model predicts, and beside
  the formula for helper hosts. Target: within 15 %.

The stated loss is what all-reduce reaches in 60 % of a pilot's steps: the mean training loss of the last 10 steps, as
the ledger has it. With local steps and stale servers that is the loss at the weights that each worker has at the time.
Every side has the same learning rate in every step, and three times the pilot's steps to get there; a side that needs
more than three times the seconds of all-reduce has not reached it, and the table says so. Every round has a seed of its
own, in which every side trains once; ratios are taken within a round. Seconds count from when all workers are ready.
Bounds are bytes over bandwidth of the busiest link, in one direction.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import EXAMPLE_JOB, arguments, console, machine, write_results
from sync_sides import contest, star_rates
from sync_sides.course import CASES, QUICK, Case
from sync_sides.places import PLACES, POLICIES, WORKERS, bounds, no_ray, on_this_machine, optimum, sides

from manyhands.lab import obstacle
from manyhands.training.jobfile import load_job

PARTS = ("a", "b", "f", "c", "g", "d", "e")
NEED_LAB = ("c", "g", "d", "e")
ROUNDS, RATE_ROUNDS = 5, 5


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="of a to g; default: all")
    parser.add_argument("--rounds", type=int, help="default 5; 1 with --quick")
    parser.add_argument("--policies", help=f"separated by blanks; default: {' '.join(POLICIES)}")
    parser.add_argument("--examples", default="gpt,digits", help="default: both")
    options = parser.parse_args()
    policies = list(dict.fromkeys([contest.FIRST, *options.policies.split()])) if options.policies else list(POLICIES)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    goals: dict[str, float] = {}
    for part in options.parts.split(","):
        reason = obstacle() if part in NEED_LAB else None
        if reason is not None:
            console.print(f"{part} is left out: {reason}")
            continue
        facts = machine()
        if part == "e":
            figures = star_rates.measure(options.rounds or RATE_ROUNDS, options.quick)
        else:
            names = PLACES[part].examples or options.examples.split(",")
            cases = [(QUICK if options.quick else CASES)[name] for name in names]
            figures = measure(part, cases, policies, rounds, goals)
        name = "rates" if part == "e" else PLACES[part].name
        write_results(f"sync_{name}", options.quick, facts, {"load_after": os.getloadavg()[0], **figures})


def measure(part: str, cases: list[Case], policies: list[str], rounds: int, goals: dict[str, float]) -> dict[str, Any]:
    """A situation; goals are found once for each example, as they are the same everywhere."""
    place = PLACES[part]
    figures: dict[str, Any] = {"about": place.about, "workers": WORKERS, "rounds": rounds, "examples": {}}
    if place.slow:
        figures["without_ray"] = no_ray()
        if figures["without_ray"]:
            console.print(f"Ray is left out: {figures['without_ray']}")
    with tempfile.TemporaryDirectory(prefix="sync-pilot-") as folder:
        for case in cases:
            if case.flags not in goals:
                goals[case.flags] = contest.pilot(on_this_machine(Path(folder), contest.FIRST, ""), case)
    with sides(place, policies) as trains:
        for case in cases:
            result = contest.compete(case, goals[case.flags], trains, rounds)
            size = model_bytes(case)
            least = bounds(place.cluster, size, policies) if place.cluster else None
            contest.show(f"{case.example}, {place.about}", result, least)
            figures["examples"][case.example] = {
                "case": asdict(case),
                "model_bytes": size,
                "bound_seconds_per_step": least,
                "optimum_seconds_per_step": optimum(place.cluster, size) if place.cluster else None,
                **result,
            }
    return figures


def model_bytes(case: Case) -> int:
    """Of the parameters that are trained."""
    model = load_job(EXAMPLE_JOB, ["--example", case.example, f"--flags={case.flags}"]).model()
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


if __name__ == "__main__":
    main()
