"""Interleaved 1F1B: v small stages per rank instead of one large, so that filling and draining take a v-th of the time.

Idea: stage s is on rank s % p. A rank takes a group of micro-batches through its first stage, the same through its
second, and so on (backward in reverse), one forward for one backward in between. With groups of at least p, a
micro-batch has come around the ring when its turn on the next stage comes. The usual form asks for m to be a multiple
of p; here the micro-batches are dealt to m // p groups as evenly as possible (one, if there are fewer than p), which
costs no time: any m is taken.
Cost: (p - 1) / (v m + p - 1) idle for m >= p; v times the transfers; more live activations than 1F1B, each a v-th in
size.
Source: Narayanan et al., Efficient Large-Scale Language Model Training, SC 2021 (arXiv 2104.04473).
"""

from __future__ import annotations

from itertools import accumulate

from manyhands.pipeline.schedules.one_f_one_b import alternate
from manyhands.pipeline.schedules.schedule import Schedule, flush_bubble
from manyhands.pipeline.table import Action, Kind, Table


def interleaved(ranks: int, micro_batches: int, virtual: int = 2) -> Table:
    groups = _groups(ranks, micro_batches)
    chunks = range(virtual)
    ahead = [(chunk, micro_batch) for group in groups for chunk in chunks for micro_batch in group]
    behind = [(chunk, micro_batch) for group in groups for chunk in reversed(chunks) for micro_batch in group]
    return Table(
        schedule="interleaved",
        micro_batches=micro_batches,
        placement=tuple(stage % ranks for stage in range(ranks * virtual)),
        ranks=tuple(
            alternate(
                [Action(Kind.FORWARD, chunk * ranks + rank, micro_batch) for chunk, micro_batch in ahead],
                [Action(Kind.BACKWARD, chunk * ranks + rank, micro_batch) for chunk, micro_batch in behind],
                _lead(ranks, rank, virtual, len(groups[0])),
            )
            for rank in range(ranks)
        ),
    )


def _groups(ranks: int, micro_batches: int) -> list[range]:
    """Consecutive micro-batches in groups of at least `ranks` that differ by one at most, larger ones first."""
    count = max(1, micro_batches // ranks)
    size, more = divmod(micro_batches, count)
    ends = list(accumulate(size + (index < more) for index in range(count)))
    return [range(start, end) for start, end in zip((0, *ends), ends, strict=False)]


def _lead(ranks: int, rank: int, virtual: int, group: int) -> int:
    """The forwards that rank `rank` does before its first backward can have arrived.

    All but the last of its stages for the first group, and a forward for each hop to the last rank and back again.
    """
    return (virtual - 1) * group + (ranks - 1 - rank) * (2 if virtual > 1 else 1)


INTERLEAVED = Schedule(
    name="interleaved",
    summary="1f1b with several small stages on each rank: a smaller bubble for more transfers and launches",
    fill=interleaved,
    bubble=flush_bubble,
    virtual=2,
    chooses_virtual=True,
)
