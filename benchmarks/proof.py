"""What it costs that a run proves itself: the check before it trains, and what replicas look at while they do.

  check       seconds until the first step is committed, with `--check on` and `off`, in alternating pairs; and its
              share of a run of a minute
  state       seconds that one comparison of states takes (alike.py), and how many steps lie between two at the bound of
              0.1 % of the time
  audit       median step with `--audit N` over that with `--audit 0`, in alternating pairs: one micro-batch in N is
              computed twice. Bound: a step with B micro-batches a worker takes (B + 1) / B as long, once in
              N / micro_batches steps.

Two cores, one thread a worker.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, arguments, console, machine, ratios, summary, table, write_results
from runs import Run

from manyhands.job import Job
from manyhands.run import read_journal
from manyhands.training.jobfile import load_job
from manyhands.training.steps.alike import Alike
from manyhands.training.trainer import Trainer

GPT, DIGITS = ROOT / "examples/gpt.py", ROOT / "examples/digits.py"
CASES: dict[str, tuple[Path, list[str], list[str]]] = {
    "gpt.py, 2 workers": (GPT, ["--workers", "2"], ["--steps", "3"]),
    "gpt.py, pp=2": (GPT, ["--layout", "pp=2"], ["--steps", "3"]),
    "gpt.py, tp=2": (GPT, ["--layout", "tp=2"], ["--steps", "3"]),
    "gpt.py, dp=2,shard=3": (GPT, ["--layout", "dp=2,shard=3"], ["--steps", "3"]),
    "digits.py, 2 workers": (DIGITS, ["--workers", "2"], ["--steps", "3"]),
}
AUDITS = (100,)
DEADLINE = 600.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, help="default 3")
    parser.add_argument(
        "--only", choices=["check", "state", "audit"], help="leave the others out, and write no results"
    )
    options = parser.parse_args()
    facts, pairs = machine(), options.pairs or (1 if options.quick else 3)
    wanted = {"check", "state", "audit"} if options.only is None else {options.only}
    checks = [check(name, *case, pairs) for name, case in CASES.items()] if "check" in wanted else []
    states = [state(file) for file in (GPT, DIGITS)] if "state" in wanted else []
    audits = [audit(GPT, every, pairs, 20 if options.quick else 60) for every in AUDITS] if "audit" in wanted else []
    show(checks, states, audits)
    if options.only is None:
        write_results("proof", options.quick, facts, {"check": checks, "state": states, "audit": audits})


def check(name: str, file: Path, plan: list[str], job: list[str], pairs: int) -> dict[str, Any]:
    """Seconds to the first step with the check and without."""
    found: dict[str, list[float]] = {"on": [], "off": []}
    for number in range(pairs):
        for way in ("on", "off") if number % 2 else ("off", "on"):
            with tempfile.TemporaryDirectory(prefix="proof-") as folder:
                began = time.monotonic()
                with Run(Path(folder) / "run", file, job, [*plan, "--check", way]) as run:
                    run.wait_for_step(1, DEADLINE)
                    found[way].append(time.monotonic() - began)
        console.print(
            f"{name}: first step after {found['on'][-1]:.1f} s with the check, {found['off'][-1]:.1f} without"
        )
    more = [on - off for on, off in zip(found["on"], found["off"], strict=True)]
    return {"name": name, "seconds": found, "more": summary(more), "share_of_a_minute": statistics.median(more) / 60}


def state(file: Path) -> dict[str, Any]:
    """What a comparison of states takes beside a step."""
    job: Job = load_job(file, ["--steps", "12"])
    trainer = Trainer(job)
    steps = []
    for _ in range(8):
        began = time.perf_counter()
        trainer.train_step()
        steps.append(time.perf_counter() - began)
    looks = []
    for _ in range(10):
        alike = Alike(trainer.learner)
        began = time.perf_counter()
        alike.look(0.0)
        looks.append(time.perf_counter() - began)
    look, step = statistics.median(looks), statistics.median(steps) / 2  # two workers share it
    numbers = sum(p.numel() for p in trainer.model.parameters())
    return {
        "name": file.name,
        "parameters": numbers,
        "seconds": look,
        "step": step,
        "every": max(1, look / step / 1e-3),
    }


def audit(file: Path, every: int, pairs: int, steps: int) -> dict[str, Any]:
    """Steps of runs with audits over steps of runs without."""
    found: dict[int, list[float]] = {every: [], 0: []}
    for number in range(pairs):
        for one in (every, 0) if number % 2 else (0, every):
            with tempfile.TemporaryDirectory(prefix="proof-") as folder:
                flags = ["--workers", "2", "--check", "off", "--audit", str(one)]
                with Run(Path(folder) / "run", file, ["--steps", str(steps)], flags) as run:
                    run.finish(DEADLINE)
                    lines = [line for line in read_journal(run.files.metrics) if line["kind"] == "step"]
                    seconds = [line["seconds"] for line in lines]
                    found[one].append(statistics.fmean(sorted(seconds[5:])[: -len(seconds) // 20]))
    return {"name": file.name, "every": every, "ratio": ratios(found[every], found[0]), "seconds": found}


def show(checks: list[dict[str, Any]], states: list[dict[str, Any]], audits: list[dict[str, Any]]) -> None:
    rows = []
    for one in checks:
        on, off = (statistics.median(one["seconds"][way]) for way in ("on", "off"))
        more = one["more"]
        cells = [
            one["name"],
            f"{on:.1f}",
            f"{off:.1f}",
            f"{more['median']:.1f}",
            f"{more['min']:.1f} to {more['max']:.1f}",
        ]
        rows.append([*cells, f"{one['share_of_a_minute']:.1%}"])
    columns = ["first step after, s", "check on", "off", "more", "from, to", "of a minute"]
    if rows:
        table("What the check costs", columns, rows)
    rows = [
        [
            one["name"],
            f"{one['parameters'] / 1e6:.2f}",
            f"{1e3 * one['seconds']:.2f}",
            f"{1e3 * one['step']:.0f}",
            f"{one['every']:.0f}",
        ]
        for one in states
    ]
    if rows:
        table("Comparing states", ["", "M parameters", "ms", "step ms", "steps between two"], rows)
    rows = []
    for one in audits:
        ratio = one["ratio"]
        rows.append(
            [
                f"{one['name']}, --audit {one['every']}",
                f"{ratio['median']:.3f}",
                f"{ratio['min']:.3f} to {ratio['max']:.3f}",
            ]
        )
    if rows:
        table("Mean step with audits over that without", ["", "ratio", "from, to"], rows)


if __name__ == "__main__":
    main()
