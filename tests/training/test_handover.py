"""A state that goes straight from one worker to others, in chunks that cut tensors anywhere."""

import contextlib

import pytest
import torch
from gangs import in_threads

from manyhands.state import Image, read_image
from manyhands.training import handover


def state(sizes=(1, 3, 1000, 70, 5000)) -> dict:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"t{i}": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    tensors["turned"] = torch.randn(30, 20, generator=generator).t()  # not contiguous
    tensors["half"] = torch.randn(7, generator=generator).to(torch.bfloat16)
    tensors["none"] = torch.empty(0)
    tensors["steps"] = torch.tensor(5)
    return {"model": tensors, "step": 9, "list": [1.5, None, ("a", True)]}


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


@pytest.mark.parametrize("chunk", [64, 1000, 4096, 16 << 20])
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("expected", [None, 10, 1 << 20])
def test_everybody_gets_the_giver_s_state(monkeypatch, chunk, world, expected):
    monkeypatch.setattr(handover, "CHUNK", chunk)
    image = Image(state(), {"step": "9"})

    def work(rank, group):
        with contextlib.closing(group):
            if rank == 0:
                handover.give(group, image)
                return None
            return read_image(handover.receive(group, 0, handover.room(expected) if expected else None))

    for tree, metadata in in_threads(world, work)[1:]:
        assert same(tree, state())
        assert metadata == {"step": "9"}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 4097])
def test_parts_of_an_image_are_those_of_the_whole(length):
    image = Image(state(), {"step": "9"})
    whole = torch.zeros(image.length, dtype=torch.uint8)
    image.write(memoryview(whole.numpy()))
    parts = torch.full((image.length,), 7, dtype=torch.uint8)
    for start in range(0, image.length, length):
        image.write_part(parts[start : start + length], start)
    assert torch.equal(parts, whole)


def test_what_is_assumed_of_machines_has_all_of_them():
    assert [len([n for n in handover.machines(count).nodes if n.holds_data]) for count in (2, 5)] == [2, 5]
