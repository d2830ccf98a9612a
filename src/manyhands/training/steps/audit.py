"""One micro-batch in many is computed by a second worker, too: both have to come to the same bits.

A processor that computes wrongly changes a gradient, the sum goes to all replicas alike, and nothing looks wrong ever
after ("silent data corruption": Hochschild et al., Cores that don't count, HotOS 2021). Nor does it where a job depends
on what a worker has computed before, as by a counter in a closure: then the result depends on who computes what. Which
micro-batches are computed twice, and by whom, follows from the job's seed; the second worker's gradients go nowhere.

If the two are different, both compute the micro-batch again. Who then comes to what the other had said had erred, and
is named; if both insist, nobody can tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyhands.collective import Block
from manyhands.errors import UserError
from manyhands.training.seeds import stream_seed
from manyhands.training.steps.alike import DeviationError

Found = dict[str, Any]
"""What a micro-batch came to: its loss, and the sums of the bits of gradients and changed buffers, by name."""


def chosen(seed: int, step: int, every: int, blocks: Sequence[Block]) -> dict[int, tuple[int, int]]:
    """The micro-batches of the step after `step` steps that are computed twice, with their worker and the second one.

    Args:
        seed: the job's.
        every: one in so many.
        blocks: by rank, what each worker computes.
    """
    workers = [rank for rank, block in enumerate(blocks) if block.size]
    if len(workers) < 2:
        return {}
    number = stream_seed(seed, "audit", step)
    pairs = {}
    for place, rank in enumerate(workers):
        for micro_batch in range(*blocks[rank]):
            if (micro_batch + number) % every == 0:
                other = (place + 1 + (number // every + micro_batch) % (len(workers) - 1)) % len(workers)
                pairs[micro_batch] = rank, workers[other]
    return pairs


class Audit:
    """A worker's part in it.

    Args:
        seed: the job's.
        every: one micro-batch in so many is computed twice.
        rank: this worker's.
        again: computes a micro-batch and leaves nothing behind.
    """

    def __init__(self, seed: int, every: int, rank: int, again: Callable[[int], Found]) -> None:
        self._seed, self._every, self._rank, self._again = seed, every, rank, again
        self._step = 0
        self._pairs: dict[int, tuple[int, int]] = {}
        self._found: dict[int, Found] = {}

    def begin(self, step: int, blocks: Sequence[Block]) -> set[int]:
        """A step begins: compute what is another worker's. Returns which of this worker's own another one computes."""
        self._step, self._pairs = step, chosen(self._seed, step, self._every, blocks)
        self._found = {index: self._again(index) for index, (_, who) in self._pairs.items() if who == self._rank}
        return {index for index, (who, _) in self._pairs.items() if who == self._rank}

    def look(self, own: Mapping[int, Found]) -> dict[str, Any]:
        """What this worker tells the others in this step.

        Args:
            own: what those of its micro-batches came to that others have computed as well.
        """
        self._found |= own
        return {"audit": {str(index): _digest(found) for index, found in self._found.items()}} if self._found else {}

    def judge(
        self,
        said: Sequence[Mapping[str, Any]],
        gather: Callable[[bytes], list[bytes]],
        first: Callable[[], None],
    ) -> None:
        """Compare what all workers told in this step.

        Args:
            said: by rank.
            gather: collects bytes of all of them.
            first: called before micro-batches are computed again: gives the step up, and sees whether it is the states
                that are different.

        Raises:
            DeviationError: somebody has computed something wrong.
            UserError: two workers compute different things, again and again.
        """
        for index, pair in sorted(self._pairs.items()):
            one, other = (said[rank].get("audit", {}).get(str(index)) for rank in pair)
            if one != other:
                first()
                self._settle(index, pair, gather)

    def _settle(self, index: int, pair: tuple[int, int], gather: Callable[[bytes], list[bytes]]) -> None:
        """Find out who of the two is wrong about a micro-batch."""
        tried = [self._found[index], self._again(index)] if self._rank in pair else []
        texts = gather(json.dumps(tried).encode())
        (one, one_again), (other, other_again) = (json.loads(texts[rank]) for rank in pair)
        names = [name for name in one if one[name] != other.get(name)]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        what = f"{names[0] if names else 'what it keeps'}{more} of micro-batch {index} of step {self._step + 1}"
        if one_again == other_again and (one == one_again) != (other == other_again):
            rank = pair[1] if one == one_again else pair[0]
            text = (
                f"worker {rank} computed {what} wrongly, as it and worker {sum(pair) - rank} found by doing it again."
            )
            raise DeviationError(text, [rank])
        raise UserError(
            f"workers {pair[0]} and {pair[1]} compute different things from the same state and the same samples, again "
            f"and again: {what}. Either the job depends on what a worker has computed before, as by a counter or a "
            "cache in the model, the loss or the data: put that into a buffer, or train with --workers 1. Or one of "
            "their machines errs."
        )


def _digest(found: Found) -> str:
    return hashlib.blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=16).hexdigest()
