import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "torch"))

from torch_gang import Gang, Server


class Pipes(Server):
    """Gangs whose members have loaded what pipelines import; they make their own process groups."""

    def __init__(self):
        super().__init__("manyhands.training.steps.parts")

    def gang(self, world):
        if world not in self.gangs or self.gangs[world].broken:
            self.gangs[world] = Gang(self, world, init=False)
        return self.gangs[world]


@pytest.fixture(scope="session")
def pipes():
    pipes = Pipes()
    yield pipes
    pipes.close()
