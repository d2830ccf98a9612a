"""When and how replicas agree: sums in the job's order, within a worker and across workers."""

from manyhands.sync.choice import choose_forest
from manyhands.sync.exchange import Exchange
from manyhands.sync.layout import Layout, lay_out
from manyhands.sync.local_sum import LocalSum

__all__ = ["Exchange", "Layout", "LocalSum", "choose_forest", "lay_out"]
