"""Tables on torch's own stages, and the private names of torch that `pipeline/runtime.py` stands on.

Whoever brings a torch in which they differ is told here, by name, before anything else fails.
"""

import inspect

import live_checks
import pytest
import torch
from torch.distributed.pipelining import schedules

from manyhands.pipeline import SCHEDULES, make_table


@pytest.mark.parametrize("backend", ["gloo", "manyhands"])
def test_torch_stages_run_every_table(pipes, backend):
    """Gradients are the whole model's, up to the order of the sums."""
    found = pipes.gang(2).run(live_checks.on_torch_stages, list(SCHEDULES), 4, backend)
    for by_schedule in found:
        assert by_schedule.keys() == SCHEDULES.keys()
        assert max(by_schedule.values()) < 1e-6, by_schedule


def check_call(owner, name, *arguments, **keywords):
    """`name` of `owner` can be called like this.

    Raises:
        AssertionError: it is not there, or takes other arguments.
    """
    where = f"{owner.__name__}.{name} of torch {torch.__version__}, on which manyhands/pipeline/runtime.py stands,"
    function = getattr(owner, name, None)
    assert function is not None, f"{where} is gone"
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        raise AssertionError(f"{where} takes other arguments: {inspect.signature(function)}: {error}") from None


def test_private_names_of_torch():
    kind = getattr(schedules, "_PipelineScheduleRuntime", None)
    assert kind is not None, f"_PipelineScheduleRuntime is gone from torch {torch.__version__}'s pipelining.schedules"
    check_call(schedules, "_PipelineScheduleRuntime", [], 4, loss_fn=None, scale_grads=False)
    check_call(kind, "_prepare_schedule_with_comms", None, {})
    check_call(kind, "_step_microbatches", None, [()], [{}], [None], None, False)
    check_call(kind, "_initialize_stages", None, (), {}, None, None)
    check_call(schedules._Action, "from_str", "0F0")


def test_missing_and_changed_names_are_told():
    class Newer:
        def _step(self, plan): ...

    with pytest.raises(AssertionError, match=r"Newer._gone of torch .* is gone"):
        check_call(Newer, "_gone")
    with pytest.raises(AssertionError, match="takes other arguments"):
        check_call(Newer, "_step", None, 1, 2)


def test_torch_reads_every_action():
    for schedule in SCHEDULES:
        for row in make_table(schedule, 2, 4).ranks:
            for action in row:
                read = schedules._Action.from_str(str(action))
                assert (read.stage_index, read.microbatch_index) == (action.stage, action.micro_batch)
                assert repr(read) == str(action)


def test_step_keeps_its_books_where_we_clear_them():
    """What a step that raised leaves behind is forgotten by name."""
    from manyhands.pipeline.runtime import _Runtime

    source = inspect.getsource(schedules)
    for name in ("_internal_losses", "fwd_recv_ops", "bwd_recv_ops"):
        assert f"self.{name}" in source, f"{name} is gone from torch {torch.__version__}'s runtime"
    assert issubclass(_Runtime, schedules._PipelineScheduleRuntime)
