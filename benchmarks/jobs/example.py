"""An example of this repository without its evaluation, so that a benchmark times training alone.

manyhands train benchmarks/jobs/example.py -- --example gpt --flags="--layers 2 --steps 100"
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Literal

from manyhands import Job
from manyhands.training.jobfile import load_job

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def job(example: Literal["gpt", "digits", "hf"] = "gpt", flags: str = "") -> Job:
    built = load_job(EXAMPLES / f"{example}.py", shlex.split(flags))
    return dataclasses.replace(built, evaluate=None)
