"""From a run's newest whole checkpoint to files that other programs load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from manyhands.errors import UsageError, UserError
from manyhands.export.load import build_model, open_state
from manyhands.run import RunDirectory, newest_checkpoint, read_json
from manyhands.state import check_same_model
from manyhands.state.plain import write_plain

WEIGHTS = "model.safetensors"


class Converted(NamedTuple):
    path: Path
    """The file, or the folder."""
    step: int
    tensors: int
    pretrained: bool
    """Whether it is a folder that `from_pretrained` loads."""


def convert(directory: RunDirectory, output: Path | None, note: Callable[[str], None]) -> Converted:
    """Write weights and persistent buffers under the model's own names, in their dtypes, as safetensors.

    A `transformers` model is written as that library writes it: with its configuration, tied weights once.

    Args:
        output: a name that ends in .safetensors is a file of weights alone, another a folder. None: `model.safetensors`
            in the run directory, or for a `transformers` model the folder `model` there.
        note: told what the user should know.

    Raises:
        UserError: there is no whole checkpoint, the output exists, or the disk is full.
    """
    checkpoint = newest_checkpoint(directory.checkpoints, note)
    if checkpoint is None:
        raise UserError(
            f"the run {directory.path} has no whole checkpoint to convert. Let it train on until it has written one: "
            f"manyhands train --resume {directory.path}"
        )
    with open_state(checkpoint.state) as tree:
        weights = {name: value for name, value in tree["model"].items() if isinstance(value, Tensor)}
        model = _model(directory, note)
        pretrained = model if model is not None and _is_pretrained(model) else None
        output = (output or directory.path / ("model" if pretrained is not None else WEIGHTS)).absolute()
        _check_free(output)
        if pretrained is not None:
            check_same_model({**tree["buffers"], **tree["model"]}, pretrained)
            pretrained.load_state_dict(tree["model"])
        alone = output.suffix == ".safetensors"
        with _staged(output) as staging:
            if pretrained is not None:
                _write_pretrained(pretrained, staging)
                weights = dict.fromkeys(_names(staging / WEIGHTS))
            else:
                write_plain(staging / WEIGHTS, weights)
            (staging / WEIGHTS if alone else staging).rename(output)
    return Converted(output, checkpoint.step, len(weights), pretrained is not None and not alone)


def _model(directory: RunDirectory, note: Callable[[str], None]) -> nn.Module | None:
    """The run's model, untrained; None if its job is not to be had any more."""
    job_file = read_json(directory.run)["job_file"]
    if job_file is None or not Path(job_file).is_file():
        gone = f"the job file {job_file} does not exist any more" if job_file else "the run's job was in memory"
        note(f"{gone}: writing the weights alone.")
        return None
    return build_model(directory)


def _is_pretrained(model: nn.Module) -> bool:
    """Whether a model is one of `transformers`, which knows how to write itself."""
    return hasattr(getattr(model, "config", None), "to_json_string") and callable(
        getattr(model, "save_pretrained", None)
    )


def _check_free(output: Path) -> None:
    if output.is_dir() and any(output.iterdir()):
        raise UsageError(f"{output} exists and is not empty. Give another: --output, or remove it first.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} exists already. Give another: --output, or remove it first.")


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A folder beside the output to write in, so that the output appears whole or not at all."""
    staging: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
        staging.chmod(0o755)
        yield staging
    except OSError as error:
        raise UserError(
            f"cannot write {output}: {error.strerror or error}. Make room there, or give another place: --output."
        ) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _write_pretrained(model: nn.Module, folder: Path) -> None:
    """Write a model as `transformers` does: one file of weights, config.json and what else belongs to the model."""
    from safetensors import SafetensorError

    save: Any = model.save_pretrained  # type: ignore[attr-defined]
    try:
        save(folder, max_shard_size=1 << 62)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from None


def _names(path: Path) -> Mapping[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys())
