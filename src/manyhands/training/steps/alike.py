"""Replicas hold the same state after every step, bit for bit. Whether they still do is looked at now and then.

A bit that memory flips, or a job that does on one worker what it does not on another, would otherwise be known at the
end of the run at best. Each replica adds up the bits of every tensor of its state as integers (any one bit that is
different changes the sum), and a digest of the sums goes along with what the workers tell each other in a step anyway.
That is done in the first step of a gang, in the step after each snapshot, and else so seldom that it takes at most
`_SHARE` of the time.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyhands.errors import UserError
from manyhands.training.learner import Learner

_SHARE = 0.001
"""Largest share of the time that looking may take."""
_WIDE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DeviationError(UserError):
    """Replicas do not hold, or do not compute, the same.

    Attributes:
        ranks: those that are wrong; empty: nobody can tell.
        since: where states are different, the last step after which they were known to be the same, or -1 if that was
            before this gang; None: states are the same, and what was computed from them is not.
    """

    def __init__(self, text: str, ranks: Sequence[int] = (), since: int | None = None) -> None:
        super().__init__(text)
        self.ranks, self.since = tuple(ranks), since


def bits(tensors: Sequence[Tensor]) -> list[int]:
    """The sum of each tensor's bits, read as integers of its elements' size, modulo 2^64."""
    sums = [_words(tensor).sum(dtype=torch.int64) for tensor in tensors]
    return torch.stack(sums).tolist() if sums else []


def _words(tensor: Tensor) -> Tensor:
    plain = tensor.detach()
    plain = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
    return plain.contiguous().reshape(-1).view(_WIDE[plain.element_size()])


class Alike:
    """Compares the states of replicas.

    Args:
        learner: whose state.

    Attributes:
        agreed: the last step after which all replicas were seen to hold the same; -1: none yet.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._due = learner.step
        self._soon = False
        self._sums: dict[str, int] = {}
        self.agreed = -1

    def soon(self) -> None:
        """Look in the next step: a state was left for others, who should know whether it is right."""
        self._soon = True

    def look(self, took: float) -> dict[str, Any]:
        """What this replica tells the others in this step.

        Args:
            took: seconds of the step before.
        """
        step, began = self._learner.step, time.perf_counter()
        if step < self._due:
            return {"next": step + 1 if self._soon else self._due}
        self._sums = dict(zip(*self._state(), strict=True))
        text = hashlib.blake2b(json.dumps(self._sums).encode(), digest_size=16).hexdigest()
        seconds = time.perf_counter() - began
        pause = math.ceil(seconds / (_SHARE * took)) if took else 1
        self._soon = False
        return {"state": text, "next": step + max(1, pause)}

    def judge(self, said: Sequence[Mapping[str, Any]], gather: Callable[[bytes], list[bytes]]) -> None:
        """Compare what all replicas told in this step.

        Args:
            said: by rank.
            gather: collects bytes of all of them.

        Raises:
            DeviationError: they do not hold the same.
        """
        states = [one.get("state") for one in said]
        self._due = int(said[0]["next"])
        if None in states:  # not their turn
            return
        if len(set(states)) == 1:
            self.agreed = self._learner.step
        else:
            self._name(gather)

    def compare(self, gather: Callable[[bytes], list[bytes]]) -> None:
        """Compare what all replicas hold now, between two steps; all of them call it.

        Raises:
            DeviationError: they do not hold the same.
        """
        self._sums = dict(zip(*self._state(), strict=True))
        self._name(gather)

    def _name(self, gather: Callable[[bytes], list[bytes]]) -> None:
        """Find what is different, and whose."""
        texts = gather(json.dumps(self._sums).encode())
        tables = [json.loads(text) for text in texts]
        names = [name for name in {**tables[0], **tables[-1]} if len({table.get(name) for table in tables}) > 1]
        if not names:
            return
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        ranks = odd(texts)
        who = (
            f"worker {' and '.join(map(str, ranks))} holds other values of"
            if ranks
            else "the workers hold different values of"
        )
        last = f"; after step {self.agreed} all held the same" if self.agreed >= 0 else ""
        text = f"{who} {names[0]}{more} after step {self._learner.step}{last}."
        raise DeviationError(text, ranks, self.agreed)

    def _state(self) -> tuple[list[str], list[int]]:
        """The names of the state's tensors and the sums of their bits."""
        learner = self._learner
        params = dict(learner.model.named_parameters())
        tensors: dict[str, Tensor] = {**params, **dict(learner.model.named_buffers())}
        for name, param in params.items():
            for key, value in learner.optimizer.state.get(param, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"the optimizer's {key} of {name}"] = value
        return list(tensors), bits(list(tensors.values()))


def odd(found: Sequence[Any]) -> list[int]:
    """The ranks that have found another thing than most; none if there is no majority."""
    (most, count), *_ = Counter(found).most_common()
    return [rank for rank, one in enumerate(found) if one != most] if 2 * count > len(found) else []
