import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "torch"))

from torch_gang import Server  # noqa: E402


class TensorServer(Server):
    def __init__(self):
        self.process = subprocess.Popen([sys.executable, HERE / "tensor_gang.py"], stdin=subprocess.PIPE, text=True)
        self.gangs = {}


@pytest.fixture(scope="session")
def tensor_server():
    server = TensorServer()
    yield server
    server.close()


@pytest.fixture
def gang_of(tensor_server):
    """A gang of so many processes, kept for all tests of this folder."""
    return tensor_server.gang
