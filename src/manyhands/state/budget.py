"""How often state may be kept, given that keeping it must stay cheap.

Every second of training earns `share` seconds; keeping state spends what it took. State is kept as soon as
the savings cover what it is expected to cost, so the interval adapts by itself: every step for a small model,
every few hundred for a large one, and from the start to any moment the cost is at most `share` of the time plus one
save.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Savings of time. All quantities in seconds but `share`."""

    share: float
    """The largest fraction of training time that may be spent."""
    expected: float
    """What the next save will cost: at first the caller's guess, then an average of what they did cost."""
    savings: float = 0.0

    def earn(self, seconds: float) -> None:
        """Training went on for so long."""
        self.savings += self.share * seconds

    def allows(self) -> bool:
        """Whether a save now is covered."""
        return self.savings >= self.expected

    def spend(self, seconds: float, typical: bool = True) -> None:
        """A save took so long. Savings beyond one save are not hoarded, or a pause would earn a burst.

        A save that was not `typical` (into memory that was touched for the first time) is paid for all the same, but
        says nothing about the next one.
        """
        self.savings = min(self.savings - seconds, seconds)
        if typical:
            self.expected = 0.5 * self.expected + 0.5 * seconds
