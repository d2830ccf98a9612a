"""Pipelines: what is predicted, what is measured, and torch's own schedules beside them.

Five parts, each with a result file of its own:

clock: layers that sleep, under every schedule; predicted and measured step times, the bubble beside theory, vanilla
  beside pipelined. Targets: mean error at most 5 %, worst 15 %.
compute: a GPT in two stages on two cores. Target: 0.9 of 2m / (m + 1) times the speed of vanilla.
cuts: balanced cuts beside stages of equally many blocks, where the head is heavy.
memory: live activations counted from outside. Target: what the verifier says.
peers: torch's own schedules, called directly, over gloo and over our backend. Target: at most 1.03 of their time.

Where sides are compared they stay alive and are timed in turn. A time is that of the slowest rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from common import arguments, machine, write_results
from pipelines import clock, compute, cuts, memory, peers

PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "clock": clock.measure,
    "compute": compute.measure,
    "cuts": cuts.measure,
    "memory": memory.measure,
    "peers": peers.measure,
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    options = parser.parse_args()
    for part in options.parts:
        facts = machine()
        figures = PARTS[part](options.quick)
        write_results(f"pipeline_{part}", options.quick, facts, {"load_after": os.getloadavg()[0], **figures})


if __name__ == "__main__":
    main()
