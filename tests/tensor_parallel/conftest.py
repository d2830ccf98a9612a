import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "torch"))

from torch_gang import Server

FAMILIES = ["bert", "gpt2", "gpt_neox", "llama", "phi3", "qwen3", "t5"]


@pytest.fixture(scope="session")
def tensor_server():
    server = Server(*(f"transformers.models.{family}.modeling_{family}" for family in FAMILIES))
    yield server
    server.close()


@pytest.fixture
def gang_of(tensor_server):
    """A gang of so many processes, kept for all tests of this folder."""
    return tensor_server.gang
