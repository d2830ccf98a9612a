"""Runs a table on torch's pipeline runtime: the only module that knows private names of `torch.distributed.pipelining`.

A table says in which order a rank computes; torch's runtime inserts the sends and receives where they cannot
deadlock, and drives the stages. What is used, the same in torch 2.11 to 2.13: `schedules._PipelineScheduleRuntime`
with `_prepare_schedule_with_comms` and `_step_microbatches`, and `schedules._Action`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributed.pipelining import schedules

from manyhands.pipeline.stage import Stage
from manyhands.pipeline.table import Table

# It logs the whole schedule when a stage raises, which would bury the one message that says what was wrong.
logging.getLogger(schedules.__name__).setLevel(logging.CRITICAL)


class _Runtime(schedules._PipelineScheduleRuntime):
    def _initialize_stages(self, *args: Any, **kwargs: Any) -> None:
        """Our stages know what they receive: nothing has to be inferred."""


class Pipeline:
    """The stages of this rank and the table by which they are run.

    Args:
        stages: this rank's, of torch's form: `manyhands.pipeline.stage.Stage`.
        table: whose micro-batches every step has.
    """

    def __init__(self, stages: Sequence[Stage], table: Table) -> None:
        self.stages, self.table = list(stages), table
        self._runtime = runtime(self.stages, table, _Runtime)

    def step(self) -> None:
        """One step: every action of this rank's row, in order."""
        count = self.table.micro_batches
        try:
            self._runtime._step_microbatches([()] * count, [{}] * count, [None] * count, None, False)
        except BaseException:
            self._runtime._internal_losses.clear()
            self._runtime.fwd_recv_ops.clear()
            self._runtime.bwd_recv_ops.clear()
            for stage in self.stages:
                stage.clear_runtime_states()
            raise


def runtime(
    stages: Sequence[Any], table: Table, kind: type = schedules._PipelineScheduleRuntime, loss: Any = None
) -> Any:
    """torch's schedule object for the table, with stages of torch's form; `step` runs it.

    For scripts that build `torch.distributed.pipelining.PipelineStage`s themselves: any table is a schedule for them.
    """
    made = kind(list(stages), table.micro_batches, loss_fn=loss or _own_loss, scale_grads=loss is not None)
    actions = {
        rank: [schedules._Action.from_str(str(action)) for action in row] for rank, row in enumerate(table.ranks)
    }
    made._prepare_schedule_with_comms(actions)
    return made


def _own_loss(output: Tensor, target: None) -> Tensor:
    """Our last stage gives the loss itself."""
    return output
