import sys
from collections import defaultdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "torch"))

import split_checks
from torch_gang import CheckFailed, Gang, Server

LOADS = ["manyhands.training.steps.parts", "manyhands.pipeline.stages", "manyhands.pipeline.cuts"]
LOADS += [f"transformers.models.{family}.modeling_{family}" for family in ("bert", "llama", "t5")]


class Gangs(Server):
    """Gangs of every size, forked from a process that has loaded what trainings import; trainings alone, too."""

    def __init__(self, folder):
        super().__init__(*LOADS)
        self.folder = folder

    def gang(self, world):
        if world not in self.gangs or self.gangs[world].broken:
            self.gangs[world] = Gang(self, world, init=False)
        return self.gangs[world]

    def alone(self, job, steps):
        """The file of what this job's training in one process ends with."""
        path = self.folder / f"{job}-{steps}"
        if not path.exists():
            self.gang(1).run(split_checks.alone, job, steps, str(path))
        return str(path)

    def splits(self, cases):
        """How each of (job, layout, steps, cuts) ended beside the training alone, by case."""
        cases, by_world = [tuple(case) for case in cases], defaultdict(list)
        for case in cases:
            by_world[split_checks.Layout.parse(case[1]).workers].append(case)
        found = {}
        for world, same in by_world.items():
            orders = [(job, layout, steps, self.alone(job, steps), cuts) for job, layout, steps, cuts in same]
            try:
                answers = self.gang(world).run(split_checks.splits, orders)
            except CheckFailed as failed:
                raise CheckFailed(f"after {len(found)} others, among {same}\n{failed}") from None
            found |= dict(zip(same, answers[0], strict=True))
        return found


@pytest.fixture(scope="session")
def gangs(tmp_path_factory):
    gangs = Gangs(tmp_path_factory.mktemp("alone"))
    yield gangs
    gangs.close()
