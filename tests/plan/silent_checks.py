"""What members of a pair compute with torch's own pipelining, FSDP2, DDP, DTensor and checkpoints, and nothing of ours.

Every check returns, by parameter, how far this rank's gradient is from that of one process, as a share of the largest
element: 0 is right, None is a gradient that is missing.
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, SplitPoint, pipeline, schedules
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

WIDTH, WORDS, MICRO_BATCHES = 6, 8, 4
ALONE = {}


def begin():
    """Groups of gloo: both ranks, and each alone."""
    import torch_gang

    member = torch_gang.MEMBER
    store = dist.FileStore(f"{member['folder']}/store", 2)
    dist.init_process_group("gloo", store=store, rank=member["rank"], world_size=2)
    ALONE["groups"] = [dist.new_group([rank]) for rank in range(2)]


def layers(count=4):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(count)))


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, WIDTH, generator=generator), torch.randn(8, WIDTH, generator=generator)


def loss(output, target):
    return ((output - target) ** 2).mean()


def gradients_alone(model, batches, measure=loss):
    """Of one process: the mean over batches, micro-batch by micro-batch."""
    for inputs, targets in batches:
        for x, y in zip(inputs.chunk(MICRO_BATCHES), targets.chunk(MICRO_BATCHES), strict=True):
            (measure(model(x), y) / MICRO_BATCHES / len(batches)).backward()
    return {name: param.grad for name, param in model.named_parameters() if param.grad is not None}


def off(got, right):
    """How far a gradient is from the right one."""
    if got is None:
        return None
    whole = got.full_tensor() if isinstance(got, DTensor) else got
    return ((whole - right).abs().max() / right.abs().max()).item()


def run_schedule(name, stages, inputs, targets, first=True, last=True, measure=loss):
    schedule = getattr(schedules, name)
    single = issubclass(schedule, schedules.PipelineScheduleSingle)
    made = schedule(stages[0] if single else stages, MICRO_BATCHES, loss_fn=measure)
    made.step(*([inputs] if first else []), **({"target": targets} if last else {}))


def stages_on_one_rank(parts):
    """A pipeline of one rank: both its stages are here, and there are two such pipelines."""
    group = ALONE["groups"][dist.get_rank()]
    return [PipelineStage(part, i, len(parts), torch.device("cpu"), group=group) for i, part in enumerate(parts)]


def sharded(schedule, reshard):
    """Two replicas of a pipeline, every layer and stage under FSDP2."""
    model, mesh = layers(), init_device_mesh("cpu", (2,))
    parts = [model[:2], model[2:]]
    for part in parts:
        for layer in part:
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(part, mesh=mesh, reshard_after_forward=reshard)
    run_schedule(schedule, stages_on_one_rank(parts), *batch())
    right = gradients_alone(layers(), [batch()])
    return {name: off(param.grad, right[name]) for name, param in model.named_parameters()}


def replicated(schedule, by_ddp):
    """Two replicas of a pipeline on different data; DDP exchanges gradients, or we do after the step."""
    model = layers()
    parts = [model[:2], model[2:]]
    group = dist.group.WORLD
    wrapped = [DistributedDataParallel(part, process_group=group) for part in parts] if by_ddp else parts
    run_schedule(schedule, stages_on_one_rank(wrapped), *batch(dist.get_rank()))
    if not by_ddp:
        for param in model.parameters():
            dist.all_reduce(param.grad)
            param.grad /= 2
    right = gradients_alone(layers(), [batch(0), batch(1)])
    return {name: off(param.grad, right[name]) for name, param in model.named_parameters()}


def frozen(schedule, which):
    """A pipeline over both ranks, one layer a stage, one layer frozen."""
    rank = dist.get_rank()
    single = issubclass(getattr(schedules, schedule), schedules.PipelineScheduleSingle)
    per_rank = 1 if single else 2
    model = layers(2 * per_rank)
    model[which].requires_grad_(False)
    around = [0, 1] if single else [0, 1, 1, 0] if "V" in schedule else [0, 1, 0, 1]
    mine = [index for index, place in enumerate(around) if place == rank]
    stages = [PipelineStage(model[index], index, len(around), torch.device("cpu")) for index in mine]
    run_schedule(schedule, stages, *batch(), first=0 in mine, last=len(around) - 1 in mine)
    alone = layers(2 * per_rank)
    alone[which].requires_grad_(False)
    right = gradients_alone(alone, [batch()])
    return {
        name: off(param.grad, right[name])
        for index in mine
        for name, param in ((f"{index}.{n}", p) for n, p in model[index].named_parameters())
        if name in right
    }


class Tied(nn.Module):
    """Words in, words out, through one matrix."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words):
        return self.head(self.body(self.embed(words)).tanh())


def words():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(WORDS, (8,), generator=generator), torch.randint(WORDS, (8,), generator=generator)


def tied_gradient():
    return gradients_alone(Tied(), [words()], F.cross_entropy)["embed.weight"]


def tied_by_hand(schedule):
    """The embedding on rank 0, the head on rank 1: this rank's gradient, and the sum of both."""
    model, rank = Tied(), dist.get_rank()
    part = nn.Sequential(model.embed, model.body, nn.Tanh()) if rank == 0 else model.head
    stage = PipelineStage(part, rank, 2, torch.device("cpu"))
    run_schedule(schedule, [stage], *words(), first=rank == 0, last=rank == 1, measure=F.cross_entropy)
    grad, right = model.embed.weight.grad, tied_gradient()
    alone = off(grad, right)
    dist.all_reduce(grad)
    return {"alone": alone, "sum": off(grad, right)}


def tied_by_tracer():
    """The two stages that torch's tracer makes, run one after the other."""
    inputs, targets = words()
    x = inputs.chunk(MICRO_BATCHES)[0]
    pipe = pipeline(Tied(), mb_args=(x,), split_spec={"head": SplitPoint.BEGINNING})
    front, back = pipe.get_stage_module(0), pipe.get_stage_module(1)
    gradients_alone(nn.Sequential(front, back), [(inputs, targets)], F.cross_entropy)
    copies = [param for part in (front, back) for param in part.parameters() if param.shape == (WORDS, WIDTH)]
    grads = [param.grad for param in copies if param.grad is not None]
    right = tied_gradient()
    return {"each": [off(grad, right) for grad in grads], "sum": off(sum(grads), right)}


def tied_by_parallelize(again):
    """Embedding and head split by words over both ranks; tied again, or left as torch leaves them."""
    model, mesh = Tied(), init_device_mesh("cpu", (2,))
    plan = {
        "embed": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, plan)
    tied = model.head.weight is model.embed.weight
    if again:
        model.head.weight = model.embed.weight
    gradients_alone(model, [words()], F.cross_entropy)
    assert model.embed.weight.placements == (Shard(0),)
    return {"tied": tied, "off": off(model.embed.weight.grad, tied_gradient())}


def saved(names):
    """Two stages of two layers each, saved and loaded on the same ranks: whether this rank gets its weights back."""
    rank = dist.get_rank()
    mine = layers()[2 * rank : 2 * rank + 2]
    first = 2 * rank if names == "global" else 0
    state = {f"{first + i}.{name}": value for i in range(2) for name, value in mine[i].state_dict().items()}
    folder = [tempfile.mkdtemp() if rank == 0 else ""]
    dist.broadcast_object_list(folder)
    checkpoint.save(state, checkpoint_id=folder[0])
    loaded = {name: torch.zeros_like(value) for name, value in state.items()}
    checkpoint.load(loaded, checkpoint_id=folder[0])
    dist.barrier()
    if rank == 0:
        import shutil

        shutil.rmtree(Path(folder[0]))
    return {name: torch.equal(loaded[name], state[name]) for name in state}


def private_order():
    """What torch's 1F1B says it does, by rank, as text."""
    stage = PipelineStage(layers()[0], dist.get_rank(), 2, torch.device("cpu"))
    order = schedules.Schedule1F1B(stage, MICRO_BATCHES, loss_fn=loss)._get_pipeline_order()
    kept = [[str(action) for action in row if action is not None] for _, row in sorted(order.items())]
    return [[text for text in row if text[1] in "FB"] for row in kept]
