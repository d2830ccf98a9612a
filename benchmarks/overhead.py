"""What measuring costs: the `Recorder` that tells where a worker's time goes.

Time of one `enter`, as a worker calls it (it also publishes its whereabouts to shared memory), times the calls
in a step, over the time of a step. One worker has all the micro-batches of a batch, so it makes the most
calls; in a gang there are two more for every wait.

Bound: under 1 % of the step, also while single spans are kept.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from common import EXAMPLE_JOB, arguments, machine, table, write_results

from manyhands import Trainer
from manyhands.shm import Board
from manyhands.timeline import Recorder
from manyhands.training.jobfile import load_job

CALLS = 200_000
STEPS = {"gpt": 12, "digits": 60}


class Counting(Recorder):
    """Also counts the calls."""

    calls = 0

    def enter(self, phase: str, micro_batch: int = -1) -> None:
        self.calls += 1
        super().enter(phase, micro_batch)


def main() -> None:
    options = arguments(__doc__).parse_args()
    facts = machine()
    shrink = 4 if options.quick else 1
    cost = {
        "enter": enter_seconds(CALLS // shrink, spans=False),
        "enter_with_span": enter_seconds(CALLS // shrink, spans=True),
    }
    examples = {name: calls_and_time(name, steps // shrink) for name, steps in STEPS.items()}
    for figures in examples.values():
        figures["share"] = cost["enter"] * figures["calls_per_step"] / figures["step_seconds"]
        figures["share_with_spans"] = cost["enter_with_span"] * figures["calls_per_step"] / figures["step_seconds"]
    show(cost, examples)
    write_results("overhead", options.quick, facts, {"seconds_per_call": cost, "examples": examples})


def enter_seconds(calls: int, spans: bool) -> float:
    """Seconds of one `enter`: the best of five rounds. Kept spans are taken every 100 calls, as after a step."""
    board = Board()
    recorder = Recorder(lambda phase, micro_batch: board.write(0, 1, micro_batch, phase))
    recorder.keep_spans = spans
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for call in range(calls):
            recorder.enter("forward", call & 7)
            if call % 100 == 0:
                recorder.take()
        rounds.append((time.perf_counter() - began) / calls)
    return min(rounds)


def calls_and_time(example: str, steps: int) -> dict[str, Any]:
    """Calls per step, and the median time of a step, of one worker in this process."""
    recorder = Counting()
    trainer = Trainer(load_job(EXAMPLE_JOB, ["--example", example]), device="cpu", recorder=recorder)
    trainer.train_step()
    recorder.calls = 0
    durations = []
    for _ in range(steps):
        began = time.perf_counter()
        trainer.train_step()
        recorder.take()
        durations.append(time.perf_counter() - began)
    return {"calls_per_step": recorder.calls / steps, "step_seconds": statistics.median(durations), "steps": steps}


def show(cost: dict[str, float], examples: dict[str, dict[str, Any]]) -> None:
    rows = [
        [
            name,
            f"{figures['calls_per_step']:.0f}",
            f"{figures['step_seconds'] * 1e3:.1f} ms",
            f"{figures['share']:.3%}",
            f"{figures['share_with_spans']:.3%}",
        ]
        for name, figures in examples.items()
    ]
    title = f"Recorder: {cost['enter'] * 1e6:.2f} us a call, {cost['enter_with_span'] * 1e6:.2f} us with spans kept"
    table(title, ["", "calls a step", "step", "overhead", "with spans"], rows)


if __name__ == "__main__":
    main()
