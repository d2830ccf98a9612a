"""Workers on several machines: an agent lends a machine, an engine borrows it.

The map, from the user's side to the far one: `engine.py` is the engine of all hosts; `remote.py` one of them as the
supervisor sees it, over a `line.py`; `agent.py` lets it in there, `guest.py` forks the workers. `depot.py` is where
workers of different hosts meet and leave state.
"""

from manyhands.engine.hosts.agent import Agent
from manyhands.engine.hosts.depot import Depot
from manyhands.engine.hosts.distant import DepotLostError, DepotStore, DistantSlots
from manyhands.engine.hosts.engine import HostsEngine
from manyhands.engine.hosts.token import default_token, make_token, read_token

__all__ = [
    "Agent",
    "Depot",
    "DepotLostError",
    "DepotStore",
    "DistantSlots",
    "HostsEngine",
    "default_token",
    "make_token",
    "read_token",
]
