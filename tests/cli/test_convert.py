"""A run's checkpoint as a file that others load, and in words why not where there is none."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import ROOT, train
from torch import nn

from manyhands.cli.main import main
from manyhands.run import RunDirectory, write_checkpoint
from manyhands.state import Image, capture
from manyhands.state import plain as plain_module
from manyhands.training.jobfile import load_job

TINY = ROOT / "tests" / "jobfiles" / "tiny.py"

MIXED = """
import torch
from torch import nn
from manyhands import Job

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(3, 5, bias=False)
        self.b.weight = self.a.weight
        self.norm, self.small = nn.BatchNorm1d(5), nn.Parameter(torch.randn(7).bfloat16())
        self.register_buffer("kept", torch.arange(3)), self.register_buffer("dropped", torch.ones(2), persistent=False)
        self.register_buffer("empty", torch.empty(0, 4)), self.register_buffer("scalar", torch.tensor(True))

def job():
    return Job(model=Net, data=list, loss=print, optimizer=torch.optim.Adam, batch_size=8, steps=1)
"""

BROKEN = MIXED.replace("super().__init__()", "raise ValueError('no')")

LLAMA = """
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from manyhands import Job

def job(tied: bool = True):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )
    return Job(
        model=lambda: AutoModelForCausalLM.from_config(config), data=list, loss=print, optimizer=torch.optim.Adam,
        batch_size=8, steps=1,
    )
"""


def make_run(folder: Path, source: str, arguments=(), steps=(4,)) -> nn.Module:
    """A run directory as a supervisor leaves it; the model of the last step."""
    job_file = folder / "job.py"
    job_file.write_text(source)
    directory = RunDirectory(folder / "run")
    directory.create()
    settings = {"job_file": str(job_file), "arguments": list(arguments), "cwd": str(folder)}
    directory.run.write_text(json.dumps(settings))
    job = load_job(job_file, list(arguments))
    for step in steps:
        torch.manual_seed(step)
        model = job.model()
        image = Image(capture(model, job.optimizer(model.parameters()), None, step))
        data = bytearray(image.length)
        image.write(memoryview(data))
        write_checkpoint(directory.checkpoints, step, memoryview(data))
    return model


def convert(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["convert", *map(str, arguments)])
    return caught.value.code


def equal(loaded: dict, expected: dict) -> None:
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value), name


def test_names_dtypes_and_persistent_buffers(tmp_path, capsys):
    model = make_run(tmp_path, MIXED, steps=(4, 9))
    assert convert(tmp_path / "run", "--to", "safetensors") == 0
    path = tmp_path / "run" / "model.safetensors"
    assert capsys.readouterr().out == f"{path}: 12 tensors of step 9\n"
    loaded = load_file(path)
    equal(loaded, model.state_dict())
    assert "dropped" not in loaded and "kept" in loaded
    model.load_state_dict(loaded)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoints", "model.safetensors", "run.json"]


def test_where_to(tmp_path):
    model = make_run(tmp_path, MIXED)
    assert convert(tmp_path / "run", "--output", tmp_path / "deep" / "mine.safetensors") == 0
    equal(load_file(tmp_path / "deep" / "mine.safetensors"), model.state_dict())
    (tmp_path / "folder").mkdir()
    assert convert(tmp_path / "run", "--output", tmp_path / "folder") == 0
    equal(load_file(tmp_path / "folder" / "model.safetensors"), model.state_dict())


def test_damaged_checkpoints_are_skipped(tmp_path, capsys):
    make_run(tmp_path, MIXED, steps=(4, 9))
    state = tmp_path / "run" / "checkpoints" / "step-00000009" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    assert convert(tmp_path / "run") == 0
    out = capsys.readouterr()
    assert "step 4" in out.out and "is damaged" in out.err


def test_without_its_job_file(tmp_path, capsys):
    model = make_run(tmp_path, MIXED)
    (tmp_path / "job.py").unlink()
    assert convert(tmp_path / "run") == 0
    assert "weights alone" in capsys.readouterr().err
    equal(load_file(tmp_path / "run" / "model.safetensors"), model.state_dict())


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_it(tied, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    arguments = ["--tied" if tied else "--no-tied"]
    model = make_run(tmp_path, LLAMA, arguments)
    assert convert(tmp_path / "run") == 0
    folder = tmp_path / "run" / "model"
    assert "which from_pretrained loads" in capsys.readouterr().out
    assert {"config.json", "generation_config.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    equal(loaded.state_dict(), model.state_dict())
    ids = torch.arange(8)[None]
    assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) == (not tied)
    assert convert(tmp_path / "run", "--output", tmp_path / "alone.safetensors") == 0
    equal(load_file(tmp_path / "alone.safetensors"), load_file(folder / "model.safetensors"))


def test_a_run_that_trained(tmp_path):
    train(tmp_path / "run", TINY, "--quiet", workers=1, job=("--steps=3",))
    assert convert(tmp_path / "run") == 0
    loaded = load_file(tmp_path / "run" / "model.safetensors")
    job = load_job(TINY, ["--steps=3"])
    model = job.model()
    model.load_state_dict(loaded)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    from manyhands.state import weights_sha256

    assert weights_sha256(model) == result["weights_sha256"]


@pytest.mark.parametrize(
    ("prepare", "flags", "code", "words"),
    [
        (lambda run: None, ["--to", "onnx"], 2, "--to onnx: there is no such format. Formats: safetensors"),
        (lambda run: (run / "run.json").unlink(), [], 2, "holds no run"),
        (lambda run: (run / "checkpoints").rename(run / "gone"), [], 1, "has no whole checkpoint to convert"),
        (lambda run: (run / "model.safetensors").touch(), [], 2, "model.safetensors exists already"),
        (lambda run: None, ["--output", "{run}/checkpoints"], 2, "exists and is not empty"),
        (lambda run: None, ["--output", "{run}/run.json/x"], 1, "Give another place"),
        (lambda run: (run.parent / "job.py").write_text("def job(:"), [], 2, "does not import"),
        (lambda run: (run.parent / "job.py").write_text(BROKEN), [], 1, "model() in"),
    ],
)
def test_refusals(prepare, flags, code, words, tmp_path, capsys):
    make_run(tmp_path, MIXED)
    prepare(tmp_path / "run")
    assert convert(tmp_path / "run", *(flag.format(run=tmp_path / "run") for flag in flags)) == code
    text = capsys.readouterr().err
    assert words.casefold() in text.casefold() and "Traceback" not in text


@pytest.mark.parametrize("source", [MIXED, LLAMA], ids=["plain", "transformers"])
def test_a_full_disk_leaves_nothing_behind(source, tmp_path, capsys, monkeypatch):
    make_run(tmp_path, source)
    before = sorted((tmp_path / "run").rglob("*"))

    def full(*_, **__):
        if source is LLAMA:
            from safetensors import SafetensorError

            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, "No space left on device")

    if source is LLAMA:
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    else:
        monkeypatch.setattr(plain_module.os, "fsync", full)
    assert convert(tmp_path / "run") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sorted((tmp_path / "run").rglob("*")) == before
