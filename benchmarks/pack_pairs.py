"""Packing that learns by trial, beside one who knows all speeds: on pairs that were measured on real devices.

python benchmarks/pack_pairs.py gavel_throughputs.json [--device v100]

Drawn at random: `slots` jobs that run, one a slot, and as many that wait. The policy `fifo+pack` knows nothing; it
packs, learns how fast a pair is, parts those that lose, and goes on until it leaves everything as it is. Beside what it
gains (the sum of all speeds, less what the running jobs would do alone) stand two oracles that know every speed: the
best way to give every waiting job to a running one (which is what the policy may do), and the best way to pair all
jobs, whoever ran.
Expectation: no losing pair is kept, and 90 % of the oracle's gain is reached.
"""

from __future__ import annotations

import functools
import statistics
from pathlib import Path

import numpy as np
from common import arguments, machine, table, write_results
from scipy.optimize import linear_sum_assignment

from manyhands.jobs import Jobs, Pack, State
from manyhands.jobs.pairs import Pairs
from manyhands.jobs.policies import policy_of
from manyhands.jobs.simulator import read_pairs
from manyhands.jobs.state import FREE

POLICY = policy_of("fifo+pack")
SLOTS = (4, 8, 32, 128)
DRAWS = 20
SMALL = 8
"""Slots up to which all ways to pair all jobs are looked at."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="v100")
    options = parser.parse_args()
    facts, measured = machine(), read_pairs(options.file, options.device)
    count = len(measured.kinds)
    gains = np.array([[sum(measured.speeds.get((a, b), (0, 0))) - 1 for b in range(count)] for a in range(count)])
    rows = []
    for slots in SLOTS[:2] if options.quick else SLOTS:
        draws = [draw(measured.speeds, gains, slots, seed) for seed in range(3 if options.quick else DRAWS)]
        rows.append({"slots": slots, "draws": draws})
    table(
        f"{count} kinds on {options.device}, {len(rows[0]['draws'])} draws: median (worst)",
        ["slots", "gain a slot", "/ oracle", "/ free oracle", "losing pairs kept", "trials", "distinct pairs"],
        [[str(row["slots"]), *cells(row["draws"])] for row in rows],
    )
    write_results("pack_pairs", options.quick, facts, {"device": options.device, "kinds": count, "rows": rows})


def cells(draws: list[dict[str, float | None]]) -> list[str]:
    def both(values: list[float], form: str) -> str:
        return f"{statistics.median(values):{form}} ({min(values):{form}})"

    free = [d["gain"] / d["free"] for d in draws if d["free"]]
    return [
        both([d["gain"] / d["slots"] for d in draws], ".2f"),
        both([d["gain"] / d["oracle"] for d in draws], ".1%"),
        both(free, ".1%") if free else "-",
        str(sum(d["losing"] for d in draws)),
        f"{statistics.median(d['trials'] for d in draws):.0f}",
        f"{statistics.median(d['distinct'] for d in draws):.0f}",
    ]


def draw(truth: dict, gains: np.ndarray, slots: int, seed: int) -> dict[str, float | None]:
    """One draw: what the policy ends with, and the oracles."""
    kinds = np.random.default_rng(seed).integers(0, len(gains), 2 * slots)
    pairs, second, trials = Pairs(), np.full(slots, FREE), 0
    while decisions := POLICY(moment(kinds, second, pairs)):
        for decision in decisions:
            second[second == decision.job] = FREE
        for decision in decisions:
            assert isinstance(decision, Pack) or decision.job in range(slots, 2 * slots)
            if isinstance(decision, Pack):
                slot, guest = decision.slots[0], decision.job
                second[slot] = guest
                pair = int(kinds[slot]), int(kinds[guest])
                trials += pair not in pairs.measured
                pairs.measure(*pair, truth.get(pair, (0.0, 0.0)))
    kept = np.array([gains[kinds[slot], kinds[guest]] for slot, guest in enumerate(second) if guest != FREE])
    worth = np.maximum(0.0, gains[np.ix_(kinds[:slots], kinds[slots:])])
    chosen = linear_sum_assignment(worth, maximize=True)
    return {
        "slots": slots,
        "gain": float(kept.sum()),
        "oracle": float(worth[chosen].sum()),
        "free": best_pairing(gains, tuple(kinds.tolist())) if slots <= SMALL else None,
        "losing": int((kept <= 0).sum()),
        "trials": trials,
        "distinct": len({tuple(sorted((int(a), int(b)))) for a in kinds[:slots] for b in kinds[slots:]}),
    }


def moment(kinds: np.ndarray, second: np.ndarray, pairs: Pairs[int]) -> State:
    """One worker each; the first half of the jobs runs."""
    count = len(kinds)
    runs = (np.arange(count) < count // 2) | np.isin(np.arange(count), second)
    ones, zeros = np.ones(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    jobs = Jobs(
        number=np.arange(count),
        user=zeros,
        submitted=np.arange(count, dtype=np.float64),
        least=ones,
        most=ones,
        priority=zeros,
        service=np.zeros(count),
        workers=runs.astype(np.int64),
        since=np.zeros(count),
        held=np.zeros(count, dtype=bool),
        kind=kinds,
        spread=np.ones(count),
    )
    slots = np.arange(count // 2)
    return State(now=0.0, jobs=jobs, slots=slots, first=slots, second=second, pairs=pairs.among(kinds.tolist()))


def best_pairing(gains: np.ndarray, kinds: tuple[int, ...]) -> float:
    """The largest total gain of any way to pair jobs, by trying all."""

    @functools.cache
    def best(left: int) -> float:
        if not left:
            return 0.0
        first = left.bit_length() - 1
        left ^= 1 << first
        found, others = best(left), left
        while others:
            other = others.bit_length() - 1
            others ^= 1 << other
            gain = gains[kinds[first], kinds[other]]
            if gain > 0:
                found = max(found, gain + best(left ^ (1 << other)))
        return found

    return best((1 << len(kinds)) - 1)


if __name__ == "__main__":
    main()
