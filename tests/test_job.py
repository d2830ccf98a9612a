"""Every wrong value of a job is refused where it is written, by name, with the remedy."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands import Evaluation, Job, JobError, UsageError


def job(**given) -> Job:
    values = {
        "model": lambda: torch.nn.Linear(1, 1),
        "data": list,
        "loss": torch.nn.functional.mse_loss,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "batch_size": 16,
        "steps": 10,
    }
    return Job(**{**values, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": 5}, ["model must be a function () -> nn.Module", "int", "lambda"]),
        ({"model": torch.nn.Linear(1, 1)}, ["model must be a function that builds the model", "model=lambda: ..."]),
        ({"data": [1, 2]}, ["data must be a function () -> dataset", "list", "lambda"]),
        ({"loss": "mse"}, ["loss must be a function (output, target) -> scalar", "str"]),
        ({"optimizer": None}, ["optimizer must be a function (params) -> Optimizer", "NoneType"]),
        ({"scheduler": 3}, ["scheduler must be a function (optimizer) -> LRScheduler", "int"]),
        ({"batch_size": 0}, ["batch_size", "at least 1", "it is 0"]),
        ({"batch_size": 16.0}, ["batch_size", "whole number", "it is 16.0"]),
        ({"batch_size": True}, ["batch_size", "it is True"]),
        ({"micro_batches": -2}, ["micro_batches", "at least 1", "it is -2"]),
        ({"micro_batches": "4"}, ["micro_batches", "whole number", "it is '4'"]),
        ({"batch_size": 12}, ["batch_size 12", "8 equal micro-batches", "micro_batches=6", "that 8 divides"]),
        ({"batch_size": 4}, ["batch_size 4", "micro_batches=4"]),
        ({"batch_size": 7, "micro_batches": 5}, ["micro_batches=7", "5 divides"]),
        ({"steps": None}, ["steps or epochs", "neither was given", "exactly one"]),
        ({"epochs": 2}, ["steps or epochs", "both was given", "exactly one"]),
        ({"steps": 0}, ["steps", "at least 1", "it is 0"]),
        ({"steps": -1}, ["steps", "it is -1"]),
        ({"steps": 2.5}, ["steps", "whole number", "it is 2.5"]),
        ({"steps": None, "epochs": 0}, ["epochs", "at least 1", "it is 0"]),
        ({"steps": None, "epochs": 1.5}, ["epochs", "it is 1.5"]),
        ({"seed": -1}, ["seed", "0 to 2**63 - 1", "it is -1"]),
        ({"seed": 2**63}, ["seed", f"it is {2**63}"]),
        ({"seed": 1.0}, ["seed", "integer", "it is 1.0"]),
        ({"seed": True}, ["seed", "it is True"]),
        ({"precision": "fp16"}, ["precision", "'fp32' or 'bf16'", "it is 'fp16'"]),
        ({"precision": torch.bfloat16}, ["precision", "'bf16'", "it is torch.bfloat16"]),
        ({"clip_grad_norm": 0}, ["clip_grad_norm", "above 0, or None", "it is 0"]),
        ({"clip_grad_norm": -1.5}, ["clip_grad_norm", "it is -1.5"]),
        ({"clip_grad_norm": math.nan}, ["clip_grad_norm", "it is nan"]),
        ({"clip_grad_norm": "1.0"}, ["clip_grad_norm", "it is '1.0'"]),
        ({"evaluate": list}, ["evaluate must be a manyhands.Evaluation", "type"]),
    ],
    ids=lambda value: ", ".join(f"{k}={v}" for k, v in value.items())[:40] if isinstance(value, dict) else "",
)
def test_wrong_values(given, words):
    with pytest.raises(JobError) as error:
        job(**given)
    for word in words:
        assert word in str(error.value)
    assert isinstance(error.value, UsageError) and isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": [1]}, ["evaluate.data must be a function () -> dataset", "list"]),
        ({"metrics": {"accuracy": 0.5}}, ["evaluate.metrics['accuracy'] must be a function", "float"]),
        ({"metrics": {"loss": max}}, ["'loss'", "Rename it"]),
        ({"metrics": [max]}, ["evaluate.metrics", "list"]),
        ({"every": 0}, ["evaluate.every", "at least 1", "it is 0"]),
        ({"every": 1.5}, ["evaluate.every", "it is 1.5"]),
        ({"batch_size": -1}, ["evaluate.batch_size", "it is -1"]),
    ],
)
def test_wrong_evaluations(given, words):
    with pytest.raises(JobError) as error:
        Evaluation(**{"data": list, **given})
    for word in words:
        assert word in str(error.value)


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_remedy_for_a_batch_that_does_not_divide_works(batch_size, micro_batches):
    try:
        made = job(batch_size=batch_size, micro_batches=micro_batches)
    except JobError as error:
        assert batch_size % micro_batches
        better = int(str(error).split("micro_batches=")[1].split(",")[0])
        assert job(batch_size=batch_size, micro_batches=better).micro_batch_size * better == batch_size
    else:
        assert made.micro_batch_size * micro_batches == batch_size


@given(st.integers(1, 50), st.integers(1, 5000), st.integers(1, 64))
def test_epochs_cover_the_data_and_no_step_is_for_nothing(epochs, samples, batch_size):
    steps = job(batch_size=batch_size, micro_batches=1, steps=None, epochs=epochs).total_steps(samples)
    assert steps * batch_size >= epochs * samples > (steps - 1) * batch_size
    assert job(steps=7).total_steps(samples) == 7


def test_good_values_of_every_kind():
    made = job(
        model=torch.nn.Identity,
        loss=torch.nn.MSELoss(),
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1),
        seed=2**63 - 1,
        precision="bf16",
        clip_grad_norm=1,
        evaluate=Evaluation(data=list, metrics={"accuracy": max}, every=5, batch_size=3),
    )
    assert made.micro_batch_size == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 3
    with pytest.raises(TypeError):
        Job(lambda: None)


def test_a_job_calls_nothing():
    def never(*args):
        raise AssertionError("a job is a declaration")

    job(model=never, data=never, loss=never, optimizer=never, scheduler=never, evaluate=Evaluation(data=never))
