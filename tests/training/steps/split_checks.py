"""What the members of a gang do for the tests of this folder: train a job split, or alone, and compare.

A member is forked with torch loaded (tests/torch/torch_gang.py); its place in the gang's transport is made once.
"""

from __future__ import annotations

import math
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from hazards import HAZARDS
from split_jobs import JOBS, Chain
from torch import Tensor
from torch_gang import MEMBER
from zoo import ZOO

from manyhands import Job, Trainer
from manyhands.errors import UserError
from manyhands.parallel.traits import find_traits
from manyhands.plan import Layout, Plan, judge
from manyhands.state import Image, read_image
from manyhands.training.check import CannotError, DifferentError, check
from manyhands.transport import Group, PeerLostError, part

ALL = {**JOBS, **HAZARDS, **ZOO}


def gang() -> Group:
    """The transport between this gang's members."""
    if "group" not in MEMBER:
        store = dist.FileStore(f"{MEMBER['folder']}/links", MEMBER["world"])
        MEMBER["group"] = Group.connect(store, MEMBER["rank"], MEMBER["world"], name="the gang")
    return MEMBER["group"]


def save(tree: Any, path: str | Path) -> None:
    image = Image(tree)
    content = bytearray(image.length)
    image.write(memoryview(content))
    Path(path).write_bytes(content)


def load(path: str | Path) -> Any:
    return read_image(memoryview(bytearray(Path(path).read_bytes())))[0]


def facts(steps: Sequence[Any], evaluation: Any, state: Any) -> dict[str, Any]:
    """What a training ended with."""
    figures = [[step.loss, step.grad_norm or 0.0, step.lr] for step in steps]
    return {"figures": figures, "evaluation": evaluation, "state": state}


def alone(job: str, steps: int, path: str) -> None:
    """Train in one process, without anybody else's part."""
    trainer = Trainer(ALL[job](), Plan(), device="cpu")
    done = [trainer.train_step() for _ in range(steps)]
    evaluation = trainer.evaluate() if trainer.job.evaluate else None
    save(facts(done, evaluation, trainer.capture()), path)


@contextmanager
def splitting(job: str, layout: str, cuts: Sequence[int] | None = None) -> Iterator[Trainer]:
    trainer = Trainer(ALL[job](), Plan(layout=Layout.parse(layout)), device="cpu")
    try:
        # Who trains whole models closes the group when he leaves.
        group = gang() if trainer.plan.layout.split else part(gang(), range(MEMBER["world"]), "replicas")
        trainer.join(group, cuts=cuts)
        yield trainer
    finally:
        trainer.leave()


def split(job: str, layout: str, steps: int, reference: str, cuts: Sequence[int] | None = None) -> Any:
    """How a split training ended, beside the one alone; what was refused, in words. On rank 0."""
    try:
        with splitting(job, layout, cuts) as trainer:
            done = [trainer.train_step() for _ in range(steps)]
            evaluation = trainer.evaluate() if trainer.job.evaluate else None
            state = trainer.capture()
            if MEMBER["rank"] == 0:
                ended, expected = facts(done, evaluation, state), load(reference)
                verdict = judge(trainer.plan.layout, find_traits(trainer.job, ALL[job]().model()))
                return compare(ended, expected) | {
                    "cuts": trainer.steps.cuts,
                    "equality": verdict.equality,
                    "weights": furthest(ended, expected),
                }
    except UserError as error:
        return {"refused": str(error)}


def splits(cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    """`split` for several trainings."""
    return [split(*case) for case in cases]


def compare(ended: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """The largest difference of each kind, 0.0 being the same bits; and the names of the worst."""
    worst: dict[str, list[Any]] = {}
    own_leaves, leaves = dict(_leaves(ended)), dict(_leaves(expected))
    if missing := sorted(own_leaves.keys() ^ leaves.keys()):
        worst["form"] = [math.inf, f"only on one side: {missing[:8]}"]
    for path in own_leaves.keys() & leaves.keys():
        own, other = own_leaves[path], leaves[path]
        kind = path.split("/")[1] if path.startswith("state/") else path.split("/")[0]
        difference = _difference(own, other)
        if difference and difference > worst.get(kind, [0.0])[0]:
            worst[kind] = [difference, path]
    return {"worst": worst}


NOISE = ("key.bias", "k.bias", "k_proj.bias", "qkv.bias")
"""Softmax takes no notice of a key's bias: its gradient is only rounding, which AdamW scales up to full steps."""


def furthest(ended: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference of any weight, but for `NOISE`."""
    own, other = ended["state"]["model"], expected["state"]["model"]
    return max(_difference(own[name], other[name]) for name in other if not name.endswith(NOISE))


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is in a tree, by path."""
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{path}/{key}".lstrip("/"))
    else:
        yield path, tree


def _difference(own: Any, other: Any) -> float:
    if isinstance(own, Tensor):
        if own.shape != other.shape or own.dtype != other.dtype:
            return math.inf
        if torch.equal(own.contiguous().view(-1), other.contiguous().view(-1)):
            return 0.0
        return float((own.double() - other.double()).abs().max())
    if isinstance(own, float) and isinstance(other, float):
        return 0.0 if own == other else (abs(own - other) or math.inf)
    return 0.0 if own == other else math.inf


def leave_at_once(late: int) -> str:
    """Make a mesh that one rank is slow to make, and leave it."""
    from manyhands.parallel import mesh

    rank, part = MEMBER["rank"], mesh.part

    def slowly(*arguments: Any) -> Group:
        time.sleep(0.3)
        return part(*arguments)

    with mock.patch.object(mesh, "part", slowly if rank == late else part):
        mesh.Mesh(Layout(dp=MEMBER["world"]), gang(), torch.device("cpu")).close()
    return "left"


def reads(layout: str, steps: int) -> tuple[int, int]:
    """How many samples this member reads in some steps, and in an evaluation."""
    job, count = counted(ALL["draws"]())
    trainer = Trainer(job, Plan(layout=Layout.parse(layout)), device="cpu")
    trainer.join(gang())
    try:
        for _ in range(steps):
            trainer.train_step()
        trained = count[0]
        trainer.evaluate()
    finally:
        trainer.leave()
    return trained, count[0] - trained


def checked(job: str, layout: str, sync: str = "allreduce") -> str:
    """What the check before a training finds. Members of a gang have computed gradients, so one worker's part is not
    done in a fork here; whole runs do it so."""
    plan = Plan(layout=Layout.parse(layout), sync=sync)
    trainer = Trainer(ALL[job](), plan, device="cpu")
    try:
        return check(trainer.job, plan, gang(), trainer, False, lambda waits: None).verdict
    except (DifferentError, CannotError, PeerLostError) as error:  # the last, where another cannot
        return str(error)


def checked_run(
    job: str,
    layout: str,
    steps: int,
    reference: str,
    cuts: Sequence[int] | None = None,
    checks: bool = True,
    audit: int = 0,
) -> Any:
    """A run of a gang as a worker has it: the check, and then the training of another copy. On every rank: what was
    refused, or how it failed, or how it ended, as of `split`.

    Args:
        reference: a file of what the training alone ends with.
        cuts: of the training; the check finds its own.
        checks: whether there is a check.
        audit: one micro-batch in so many is computed by a second replica, too.
    """
    found: dict[str, Any] = {"verdict": "", "refused": False}
    whole = part(gang(), range(MEMBER["world"]), "the run")
    doing = "building"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = Plan(layout=Layout.parse(layout))
            if checks:
                doing = "checking"
                trainer = Trainer(ALL[job](), plan, device="cpu")
                found["verdict"] = check(trainer.job, plan, whole, trainer, False, lambda waits: None).verdict
            doing = "joining"
            trainer = Trainer(ALL[job](), plan, device="cpu", audit=audit)
            group = whole if plan.layout.split else part(whole, range(MEMBER["world"]), "replicas")
            trainer.join(group, cuts=cuts)
            doing = "training"
            try:
                done = [trainer.train_step() for _ in range(steps)]
                doing = "evaluating"
                evaluation = trainer.evaluate() if trainer.job.evaluate else None
                doing = "capturing"
                state = trainer.capture()
            finally:
                trainer.leave()
            if MEMBER["rank"] == 0:
                ended, expected = facts(done, evaluation, state), load(reference)
                verdict = judge(plan.layout, find_traits(trainer.job, ALL[job]().model()))
                found |= compare(ended, expected) | {
                    "cuts": trainer.steps.cuts,
                    "equality": verdict.equality,
                    "weights": furthest(ended, expected),
                }
    except Exception as error:
        found["refused"] = isinstance(error, DifferentError | CannotError)
        found["failed"] = f"{doing}: {type(error).__name__}: {error}"
        found["trace"] = traceback.format_exc()
    finally:
        if "failed" in found:
            whole.abandon()
        else:
            whole.close()
    return found


def alone_quietly(job: str, steps: int, path: str) -> str:
    """`alone`, where a warning is no error. What went wrong, in words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone(job, steps, path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def counted(job: Job) -> tuple[Job, list[int]]:
    """The job with data that counts in a list how many samples were read."""
    count = [0]

    class Counting:
        def __init__(self, data: Any) -> None:
            self.data = data

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> Any:
            count[0] += 1
            return self.data[index]

    data, evaluation = job.data, job.evaluate
    assert evaluation is not None
    counting = replace(evaluation, data=lambda: Counting(evaluation.data()))
    return replace(job, data=lambda: Counting(data()), evaluate=counting), count


def slowed(job: str, layout: str, slow: str) -> tuple[int, float, str]:
    """How often and how long this member was held up in two steps, and the digest of the weights after them."""
    from manyhands.training.steps import brake

    slept: list[float] = []
    clock = mock.Mock(perf_counter=time.perf_counter, sleep=slept.append)
    with mock.patch.object(brake, "time", clock):
        trainer = Trainer(ALL[job](), Plan(layout=Layout.parse(layout), slow=slow), device="cpu")
        trainer.join(gang())
        try:
            for _ in range(2):
                trainer.train_step()
            return len(slept), sum(slept), trainer.weights_sha256()
        finally:
            trainer.leave()


def placed(layout: str, ragged: bool) -> float | None:
    """How far a placed model's output is from the whole model's, and that its weights come back; None where there is no
    output. No trainer, optimizer, loss or data.

    Args:
        ragged: infer with a batch of another size than the one that the model is looked at with.
    """
    from manyhands.parallel import Mesh, Recipe, build, gather_weights

    torch.manual_seed(7)
    model, batch, other = Chain(7, 0).eval(), torch.randn(4, 6), torch.randn(3, 6)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    asked = other if ragged else batch
    with torch.no_grad():
        expected = model(asked)
    mesh = Mesh(Layout.parse(layout), gang(), torch.device("cpu"))
    try:
        made = build(model, Recipe(layout=mesh.layout, inputs=batch, further=lambda: [other]), mesh)
        with torch.no_grad():
            output = made.infer(asked)
        weights = gather_weights(made)
    finally:
        mesh.close()
    if weights is not None:
        assert all(torch.equal(weights["model"][name], value) for name, value in whole.items())
    return None if output is None else float((output - expected).abs().max())
