"""A step that is looked at: what is counted, and that it is the step it would have been."""

import torch
from support import ROOT
from torch import nn

from manyhands.gang import Probing
from manyhands.job import Job
from manyhands.timeline import Recorder
from manyhands.training import Trainer
from manyhands.training.jobfile import load_job
from manyhands.training.probe import Probe, _Operators, shortened

TINY = ROOT / "tests" / "jobfiles" / "tiny.py"


def look(job, stages=(1, 2)):
    recorder = Recorder()
    probe = Probe(recorder, Probing(steps=4, stages=tuple(stages)))
    trainer = Trainer(job, recorder=recorder)
    probe.joined(None)
    while trainer.step < trainer.total_steps:
        probe.step(trainer, lambda: 0)
    return trainer, probe.figures


def test_operators_that_compute_are_counted_by_phase():
    recorder = Recorder()
    x, w = torch.ones(2, 3), torch.ones(3, 4, requires_grad=True)
    with _Operators(recorder) as operators:
        recorder.enter("forward")
        y = (x @ w).view(-1)  # mm; a view computes nothing
        torch.ones(3, device="meta") + 1  # nor does what has no data
        recorder.enter("backward")
        y.backward(torch.ones(8))  # ones, and mm for the weight
    assert operators.by_phase == {"forward": 1, "backward": 2}
    assert operators.total == 3


def test_the_step_is_the_one_it_would_have_been():
    job = shortened(load_job(TINY, ["--evaluate"]), 4)
    assert job.evaluate is None and job.total_steps(40) == 4
    trainer, figures = look(job)
    plain = Trainer(job)
    for _ in plain:
        pass
    assert trainer.weights_sha256() == plain.weights_sha256()
    assert figures["parameter_bytes"] == figures["gradient_bytes"] == 4 * (4 * 8 + 8 + 8 + 1)
    assert figures["optimizer_bytes"] == 2 * figures["parameter_bytes"] + 4 * 4  # Adam: two moments, and four counters
    assert figures["sent_bytes"] == 0 and 0 < figures["cpu_share"] <= 1
    counts = figures["operators_by_phase"]
    assert figures["operators"] == sum(counts.values()) and counts["forward"] % job.micro_batches == 0
    two = figures["by_stages"]["2"]
    assert sum(unit["parameter_bytes"] for unit in two["units"]) == figures["parameter_bytes"]
    assert len(two["units"]) >= 2 and sum(two["operators"]) == counts["forward"] and sum(two["parameters"]) == 4


def test_memory_is_what_the_step_holds():
    size = 1 << 24  # over 32 MB, and glibc takes fresh pages, whatever this process has freed before

    class Big(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(size))

        def forward(self, x):
            return (self.weight * x.sum()).mean()

    job = Job(
        model=Big,
        data=lambda: [(torch.ones(1), torch.ones(1))] * 4,
        loss=lambda output, target: (output - target.mean()) ** 2,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        batch_size=1,
        micro_batches=1,
        steps=3,
    )
    _, figures = look(job, ())
    assert 2 * 4 * size <= figures["peak_bytes"] <= 8 * 4 * size  # weights and a gradient; a few temporary values
