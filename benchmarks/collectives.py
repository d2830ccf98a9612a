"""Collectives beside gloo and Open MPI, and beside what the links allow: manyhands as a torch.distributed backend.

Four parts, each with a result file of its own:

links: all-reduce over ten emulated networks (needs root), with the cluster's description and without it (then the
  links are measured), beside the bound of the packing's certificate; other operations on mesh-4.
  Targets: 0.85 of the bound from 16 MiB on; 2.5 times gloo on mesh-4 and 1.5 times with a slow host; two rails 1.8
  times one.
memory: 2 and 4 ranks that share memory, 4 KiB to 128 MiB. Targets: 3 times gloo from 1 MiB on, never slower.
traffic: bytes over each host's interface. Targets: reduce-scatter (n-1)/n of the data, an FSDP2 step 25 % less than
  over gloo.
training: steps of examples/gpt.py under DDP, 2 and 4 ranks, in shared memory and over emulated links.

All sides stay alive and are timed in turn; a time is that of the slowest rank. Before each measurement comes an
operation that is not counted: it fills windows, and empties the buckets of emulated links, which hold 512 KiB for free.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from collectives import links, memory, traffic, training
from collectives.chart import chart
from collectives.sides import no_mpi
from common import ROOT, arguments, console, machine, write_results

from manyhands.lab import obstacle

PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "links": links.measure,
    "memory": memory.measure,
    "traffic": traffic.measure,
    "training": training.measure,
}
NEED_LAB = ("links", "traffic", "training")
DRAWING = ROOT / "docs" / "collectives.svg"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    options = parser.parse_args()
    without_mpi = no_mpi()
    if without_mpi is not None:
        console.print(f"Open MPI is left out: {without_mpi}")
    for part in options.parts:
        reason = obstacle() if part in NEED_LAB else None
        if reason is not None:
            console.print(f"{part} is left out: {reason}")
            continue
        facts = machine()
        figures = PARTS[part](options.quick)
        about = {"load_after": os.getloadavg()[0], "without_mpi": without_mpi}
        write_results(f"collectives_{part}", options.quick, facts, {**about, **figures})
        if part == "links" and not options.quick:
            DRAWING.write_text(chart(figures["rows"]))


if __name__ == "__main__":
    main()
