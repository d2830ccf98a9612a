"""What kind of gang a plan makes: asked once, here, and not in thirty places.

kind        what a member holds              when one is lost             who keeps the state
replicas    all of the job's state           the others stay, and go on   rank 0
parts       a part of it (stages, shards),   the generation ends, and     rank 0, which puts it together with
            or a state of its own until      new members load the         the help of all
            the replicas agree               newest state
loose       what servers last handed out     all go on while another      server 0
                                             takes its place
"""

from __future__ import annotations

from enum import Enum

from manyhands.plan import Plan


class Kind(Enum):
    """A kind of gang."""

    REPLICAS = "replicas"
    PARTS = "parts"
    LOOSE = "loose"

    @staticmethod
    def of(plan: Plan) -> Kind:
        """The kind of gang that a plan makes."""
        if plan.sync.loose:
            return Kind.LOOSE
        return Kind.PARTS if plan.layout.split or plan.sync.divides else Kind.REPLICAS

    @property
    def whole(self) -> bool:
        """Whether each member's state is the job's. Such members go on from one generation to the next, and can hand
        their state to others; of the other kinds, new ones are forked for every generation."""
        return self is Kind.REPLICAS

    @property
    def waits(self) -> bool:
        """Whether every member waits for all others in each step."""
        return self is not Kind.LOOSE

    def keeper(self, plan: Plan) -> int:
        """The rank that leaves the state for others."""
        return plan.workers if self is Kind.LOOSE else 0
