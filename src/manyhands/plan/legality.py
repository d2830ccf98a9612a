"""Whether a layout trains a job rightly: yes, yes with settings that we make, or no, why, and what instead.

`judge` applies every rule of `rules.py`. For a layout that is refused it looks for the nearest one that is not, among
those with at most as many workers, and judges that by the same rules: what is proposed really works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from math import log2

from manyhands.errors import UsageError
from manyhands.plan.layout import STAGES_PER_RANK, Layout
from manyhands.plan.rules import NOTES, ORDERS, REFUSALS, SETTINGS, Rule, Traits

SAME_BITS = "same bits"
WITHIN = "within 1e-5"
"""How equal weights are to one worker's, after 20 steps of AdamW in fp32."""
ROUNDED = "within bf16 rounding"
UNORDERED = "in no fixed order"
"""What is said of sums where the job gave the guarantee up: `reproducible=False`."""


class Kind(StrEnum):
    EXACT = "exact"
    CONDITIONAL = "exact under settings that we make"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that applies."""

    name: str
    because: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be said of a layout."""

    layout: Layout
    kind: Kind
    equality: str
    """How equal the result is to one worker's; empty if refused."""
    refusals: tuple[Finding, ...] = ()
    settings: tuple[Finding, ...] = ()
    """What has to be set for the result to be right, by name."""
    notes: tuple[Finding, ...] = ()
    nearest: Layout | None = None
    """The most similar layout that is not refused, if this one is."""

    @property
    def legal(self) -> bool:
        return self.kind is not Kind.REFUSED

    def sets(self, name: str) -> bool:
        """Whether this setting has to be made."""
        return any(setting.name == name for setting in self.settings)

    def check(self) -> None:
        """Raise `UsageError` if the layout is refused."""
        if not self.legal:
            raise UsageError(str(self))

    def __str__(self) -> str:
        if not self.legal:
            reasons = " ".join(finding.because for finding in self.refusals)
            return f"layout {self.layout} is refused: {reasons}\nNearest that works: --layout {self.nearest}"
        lines = [f"layout {self.layout}: {self.equality} as one worker" if self.equality == SAME_BITS else ""]
        lines[0] = lines[0] or f"layout {self.layout}: equal to one worker {self.equality}"
        lines += [f"  set: {finding.name}. {finding.because}" for finding in self.settings]
        lines += [f"  note: {finding.because}" for finding in self.notes]
        return "\n".join(lines)


def judge(layout: Layout, traits: Traits) -> Verdict:
    """The verdict on a layout for a job. What is not known of the job (None) speaks against nothing."""
    refusals = _applying(REFUSALS, layout, traits)
    if refusals:
        nearest = nearest_legal(layout, traits)
        return Verdict(layout=layout, kind=Kind.REFUSED, equality="", refusals=refusals, nearest=nearest)
    settings = _applying(SETTINGS, layout, traits)
    return Verdict(
        layout=layout,
        kind=Kind.CONDITIONAL if settings else Kind.EXACT,
        equality=_equality(layout, traits),
        settings=settings,
        notes=_applying(NOTES, layout, traits),
    )


def nearest_legal(layout: Layout, traits: Traits) -> Layout:
    """The legal layout with the fewest, smallest changes. One worker alone is always legal.

    Cost: candidates x rules; candidates are the divisions of up to the same number of workers x schedules x shards.
    """
    for candidate in sorted(_candidates(layout), key=lambda other: _distance(layout, other)):
        if not _applying(REFUSALS, candidate, traits):
            return candidate
    raise AssertionError("one worker is always legal")


def _applying(rules: tuple[Rule, ...], layout: Layout, traits: Traits) -> tuple[Finding, ...]:
    return tuple(
        Finding(name=rule.name, because=rule.reason(layout, traits)) for rule in rules if rule.when(layout, traits)
    )


def _equality(layout: Layout, traits: Traits) -> str:
    if not traits.reproducible:
        return UNORDERED
    if not _applying(ORDERS, layout, traits):
        return SAME_BITS
    return ROUNDED if traits.precision == "bf16" else WITHIN


def _candidates(layout: Layout) -> Iterator[Layout]:
    """Layouts of at most as many workers, each with every schedule and degree of sharding that it can have."""
    for dp, pp, tp in _shapes(layout):
        for shard in range(layout.shard + 1) if dp > 1 else (0,):
            base = Layout(dp=dp, pp=pp, tp=tp, shard=shard)
            if pp == 1:
                yield base
                continue
            for schedule in STAGES_PER_RANK:
                yield replace(base, schedule=schedule)
            for cuts in {layout.cuts, ()}:
                try:
                    yield replace(base, schedule=layout.schedule, virtual=layout.virtual, cuts=cuts)
                except UsageError:  # cuts or virtual stages that do not fit this many ranks
                    continue


def _shapes(layout: Layout) -> Iterator[tuple[int, int, int]]:
    """Ways to divide the same number of workers, and the smaller boxes within the layout's own."""
    workers = layout.workers
    divisors = [d for d in range(1, workers + 1) if workers % d == 0]
    shapes = {(d, p, workers // (d * p)) for d in divisors for p in divisors if workers % (d * p) == 0}
    shapes |= {
        (d, p, t)
        for d in range(1, layout.dp + 1)
        for p in range(1, layout.pp + 1)
        for t in range(1, layout.tp + 1)
    }  # fmt: skip
    yield from sorted(shapes)


def _distance(layout: Layout, other: Layout) -> tuple[float, str]:
    """How much is changed: workers left idle weigh most, then the shape, the schedule, sharding, the rest."""
    moved = sum(abs(log2(getattr(layout, name) / getattr(other, name))) for name in ("dp", "pp", "tp"))
    preference = ("1f1b", "gpipe", "interleaved", "vanilla", "zb-h1", "zb-v").index(other.schedule)
    cost = (
        8 * log2(layout.workers / other.workers)
        + 2 * moved
        + max(0, other.tp - layout.tp) * 0.5  # which would give same bits up
        + (layout.schedule != other.schedule and other.pp > 1) * (1 + preference / 100)
        + (layout.shard - other.shard) * 0.5
        + ((layout.virtual != other.virtual) + (layout.cuts != other.cuts)) * 0.25
    )
    return cost, str(other)
