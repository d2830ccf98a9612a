"""The loop of one worker: what it refuses, and what it leaves behind when a step fails."""

import copy
import functools

import pytest
import torch
from gangs import same
from torch import nn

from manyhands import Evaluation, Job, JobError, Trainer, UserError
from manyhands.training import NotFiniteError


class Pairs:
    """Samples (x, x.sum()); the last is infinite if `poison`."""

    def __init__(self, samples: int = 24, poison: bool = False) -> None:
        self.x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1))
        if poison:
            self.x[-1] = float("inf")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        return self.x[index], self.x[index].sum()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1), nn.Flatten(0))


def job(**changes) -> Job:
    settings = {
        "model": model,
        "data": Pairs,
        "loss": nn.functional.mse_loss,
        "optimizer": lambda params: torch.optim.Adam(params, lr=0.01),
        "batch_size": 8,
        "micro_batches": 4,
        "steps": 6,
    }
    return Job(**settings | changes)


def state(trainer: Trainer) -> dict:
    return copy.deepcopy(trainer.capture())


def test_iterating_trains_to_the_end():
    trainer = Trainer(job())
    steps = list(trainer)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [(step.epoch, step.first, step.last) for step in steps[:4]] == [
        (0, 0, 7),
        (0, 8, 15),
        (0, 16, 23),
        (1, 0, 7),
    ]
    assert steps[-1].loss < steps[0].loss


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_a_failed_step_leaves_the_state_as_it_was(micro_batches):
    """Also the buffers, which the forward passes before the fault have moved."""
    trainer = Trainer(job(data=lambda: Pairs(poison=True), micro_batches=micro_batches))
    while True:
        before = state(trainer)
        try:
            trainer.train_step()
        except NotFiniteError as error:
            assert f"step {trainer.step + 1}," in str(error)
            break
    assert same(trainer.capture(), before)


def test_an_infinite_gradient_is_refused_before_it_is_applied():
    trainer = Trainer(job(loss=lambda output, target: (output * 0).sqrt().mean(), clip_grad_norm=1.0))
    before = state(trainer)
    with pytest.raises(NotFiniteError, match="norm of the gradient"):
        trainer.train_step()
    assert same(trainer.capture(), before)


def test_a_state_in_wider_numbers_than_its_parameter_is_kept():
    """NAdam keeps a product in fp32 beside bf16 parameters; torch's loading would round it."""
    half = job(
        model=lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).bfloat16(),
        loss=lambda output, target: (output.float() - target).square().mean(),
        optimizer=lambda params: torch.optim.NAdam(params, lr=0.01),
        data=lambda: [(x.bfloat16(), y) for x, y in Pairs()],
    )
    straight, resumed = Trainer(half), Trainer(half)
    for _ in range(3):
        straight.train_step()
    resumed.restore(state(straight))
    assert same(resumed.capture(), straight.capture())
    list(straight), list(resumed)
    assert straight.weights_sha256() == resumed.weights_sha256()


def test_random_numbers_in_the_optimizer_belong_to_the_step():
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.add_(torch.randn_like(parameter))
            super().step()

    def digest(disturb: bool) -> str:
        trainer = Trainer(job(optimizer=lambda params: Noisy(params, lr=0.01)))
        for _ in trainer:
            if disturb:
                torch.rand(3)
        return trainer.weights_sha256()

    assert digest(True) == digest(False)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
    ],
)
def test_schedulers(scheduler):
    trainer = Trainer(job(scheduler=scheduler))
    steps = list(trainer)
    assert steps[-1].lr < steps[0].lr == 0.01


def test_evaluation_changes_nothing():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.body(x)

    trainer = Trainer(
        job(model=Counting, evaluate=Evaluation(data=lambda: Pairs(7), metrics={"mean": lambda o, t: o.mean()}))
    )
    trainer.train_step()
    before = state(trainer)
    trainer.model[0] if isinstance(trainer.model, nn.Sequential) else trainer.model.body[1].eval()
    figures = trainer.evaluate()
    assert figures.keys() == {"loss", "mean"}
    assert same(trainer.capture(), before)
    assert trainer.model.training and not trainer.model.body[1].training


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": lambda: 3}, "model\\(\\) must return an nn.Module"),
        ({"model": nn.Flatten}, "nothing to train"),
        ({"optimizer": lambda params: 3}, "optimizer\\(\\) must return a Optimizer"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"scheduler": lambda optimizer: 3}, "scheduler\\(\\) must return a LRScheduler"),
        ({"data": lambda: iter([])}, "map-style"),
        ({"data": lambda: []}, "empty dataset"),
    ],
)
def test_what_the_jobs_functions_return_is_checked(changes, words):
    with pytest.raises(JobError, match=words):
        Trainer(job(**changes))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda output, target: 0.5, "scalar tensor; it is a float"),
        (lambda output, target: (output - target).square(), "shape \\(2,\\)"),
        (lambda output, target: output.detach().mean(), "does not depend on any trainable"),
    ],
)
def test_what_the_loss_returns_is_checked(loss, words):
    with pytest.raises(UserError, match=words):
        Trainer(job(loss=loss)).train_step()


def test_sparse_gradients_are_refused():
    def sparse() -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 1, sparse=True), nn.Flatten())

    trainer = Trainer(
        job(
            model=sparse,
            data=lambda: [(torch.tensor(i % 9), torch.ones(1)) for i in range(24)],
            optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        )
    )
    with pytest.raises(UserError, match=r"0\.weight has a sparse gradient.*sparse=False"):
        trainer.train_step()


class Rows:
    """Numbered samples."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        return torch.full((3,), float(index)), torch.tensor(0.0)


def held_out(width: int) -> tuple[set[int], set[int]]:
    """The samples that are trained on, and those that are evaluated on, where each factory splits for itself."""

    def part(which: int):
        return lambda: torch.utils.data.random_split(Rows(), [30, 10])[which]

    split = job(
        model=lambda: nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1), nn.Flatten(0)),
        data=part(0),
        evaluate=Evaluation(data=part(1)),
    )
    feed = Trainer(split).feed
    return tuple({int(sample[0][0]) for sample in data} for data in (feed.data, feed.evaluation_data()))


def test_data_that_both_factories_split_at_random_is_held_out():
    trained, evaluated = held_out(4)
    assert (len(trained), len(evaluated)) == (30, 10) and not trained & evaluated
    assert held_out(9) == (trained, evaluated), "it does not depend on what the model drew"


def test_a_model_that_comes_in_evaluation_mode_is_trained_in_training_mode():
    trainer = Trainer(job(model=lambda: model().eval()))
    assert all(module.training for module in trainer.model.modules())

    def partly() -> nn.Module:
        built = model()
        built[1].eval()  # frozen statistics, on purpose
        return built

    trainer = Trainer(job(model=partly))
    assert trainer.model.training and not trainer.model[1].training


class Centres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(1))

    def forward(self, output, target):
        return (output - target - self.centre).square().mean()


@pytest.mark.parametrize("loss", [Centres(), Centres().forward, functools.partial(Centres())])
def test_a_loss_with_weights_of_its_own_is_refused(loss):
    with pytest.raises(JobError, match=r"Centres with weights of its own \(centre\).*part of the model"):
        Trainer(job(loss=loss))


def test_a_loss_that_is_a_module_without_weights_is_none_of_these():
    assert Trainer(job(loss=nn.MSELoss())).train_step().loss > 0
    frozen = Centres().requires_grad_(False)
    assert Trainer(job(loss=frozen)).train_step().loss > 0
