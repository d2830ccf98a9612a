"""Parameter servers: processes that hold the parameters and the optimizer's state for the workers."""

from manyhands.sync.server.shards import Shard, assign
from manyhands.sync.server.synchronous import SynchronousServer

__all__ = ["Shard", "SynchronousServer", "assign"]
