"""The state of a job whose parts are on servers, put together by the chief in the form that any policy reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from manyhands.errors import UserError
from manyhands.sync.policy import Policy, Replica, Task
from manyhands.sync.server.holding import join_state
from manyhands.sync.server.keeper import BufferRegion, float_buffers, put_others
from manyhands.sync.server.stale import StaleServer
from manyhands.sync.tables import TableSide
from manyhands.wire import Data


class Assembling(Policy):
    """What the chief's trainer has for a policy: it computes nothing, and can say what the state is.

    Args:
        groups: the optimizer's, over all parameters.
    """

    brings_weights = True

    def __init__(self, task: Task, server: StaleServer, replica: Replica, groups: list[dict[str, Any]]) -> None:
        super().__init__(task, None)
        self._server, self._model, self._groups = server, replica.model, groups
        self._buffers = [name for name, b in replica.model.named_buffers() if b.numel()]
        self._states: list[Mapping[str, Any]] = []
        self._chief: Data | None = None

    @torch.no_grad()
    def arrive(self) -> None:
        """Fetch what all servers hold, and put the weights into the model.

        Raises:
            GroupError: a server is lost; try again when another has taken its place.
        """
        own, self._chief = self._server.own_state()
        division = self._server.division
        self._states = [own, *(self._server.ask_state(server) for server in range(1, division.servers))]
        for state in self._states:
            for item, value in state["weights"].items():
                division.put(int(item), value)
        floats = float_buffers(self._model)
        room = BufferRegion(floats)
        room.region.copy_(own["buffers"])
        for buffer, view in zip(floats, room.views, strict=True):
            buffer.copy_(view)
        put_others(own["others"], self._model, self._buffers)

    def open_tables(self, tables: Mapping[str, Any], folder: Path | None, step: int) -> TableSide:
        raise UserError(f"the model has tables ({', '.join(tables)}): use --sync server with staleness=0.")

    def capture(self, state: dict[str, Any]) -> dict[str, Any]:
        return state | {
            "optimizer": join_state({"param_groups": self._groups}, self._states),
            "scheduler": self._states[0]["scheduler"],
            "sync": {"policy": "stale", "chief": self._chief},
        }
