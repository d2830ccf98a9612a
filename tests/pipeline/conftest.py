import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "torch"))

from torch_gang import HERE, Gang, Server

LOADS = """
import runpy, sys
import torch._dynamo, torch.distributed.pipelining, manyhands.training.steps.parts
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class Pipes(Server):
    """Gangs whose members have loaded what pipelines import; they make their own process groups."""

    def __init__(self):
        command = [sys.executable, "-c", LOADS, HERE / "torch_gang.py"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self.gangs = {}

    def gang(self, world):
        if world not in self.gangs or self.gangs[world].broken:
            self.gangs[world] = Gang(self, world, init=False)
        return self.gangs[world]


@pytest.fixture(scope="session")
def pipes():
    pipes = Pipes()
    yield pipes
    pipes.close()
