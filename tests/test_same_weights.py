"""The main promise: the weights belong to the job. Equal for every number of workers, through chaos, and equal
to a naive reference that shares no code with the trainer."""

import importlib.util
import random
from pathlib import Path

import pytest
import reference
import warm
from support import CHECKED, EXAMPLES, ROOT, Brake, Run, kill_worker, ledger_positions, side_by_side, train

BRAKED = ROOT / "tests" / "jobfiles" / "braked_digits.py"
JOBS = {
    "gpt": {"steps": 6, "layers": 2, "width": 32, "context": 32, "batch_size": 16},
    "digits": {"steps": 14, "micro_batches": 8},
    "hf": {"steps": 4, "layers": 1, "width": 32, "context": 32},
}


def flags(settings: dict) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())


def naive(name: str, settings: dict) -> str:
    """The digest of the reference's weights."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    job = module.job(**settings)
    return reference.weights_sha256(reference.train(job, job.steps))


def digests(folder: Path, name: str, sizes: tuple[int, ...], job: tuple[str, ...]) -> dict[int, str]:
    """Of the weights that gangs of these sizes train."""
    checked = CHECKED if name == "gpt" else ()
    runs = [
        lambda workers=workers: train(
            folder / str(workers), EXAMPLES / f"{name}.py", *checked, workers=workers, job=job
        )
        for workers in sizes
    ]
    results = zip(sizes, side_by_side(*runs), strict=True)
    return {workers: result["weights_sha256"] for workers, result in results}


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What the examples import, once for all runs."""
    warm.load("sklearn.datasets", "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gpt", (2, 3)),
        ("digits", (4,)),
        ("hf", (1,)),
        pytest.param("digits", (1, 2, 3), marks=pytest.mark.slow),
        pytest.param("hf", (2, 4), marks=pytest.mark.slow),
    ],
)
def test_weights_do_not_depend_on_the_number_of_workers(name, sizes, tmp_path):
    pytest.importorskip({"gpt": "torch", "digits": "sklearn", "hf": "transformers"}[name])
    expected = naive(name, JOBS[name])
    assert digests(tmp_path, name, sizes, flags(JOBS[name])) == dict.fromkeys(sizes, expected)


def test_odd_numbers_of_micro_batches(tmp_path):
    settings = {"steps": 5, "micro_batches": 7, "batch_size": 126}
    expected = naive("digits", settings)
    assert digests(tmp_path, "digits", (5,), flags(settings)) == {5: expected}


def test_bf16(tmp_path):
    assert (
        len(
            set(
                digests(
                    tmp_path, "digits", (1, 3), ("--steps=8", "--width=8", "--batch-size=32", "--precision=bf16")
                ).values()
            )
        )
        == 1
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled(tmp_path):
    """Through torch.compile, which takes a minute of compiling per worker; one of them is killed and compiles again."""
    job = ("--steps=8", "--layers=1", "--width=32", "--context=32", "--compile")
    calm = train(tmp_path / "calm", EXAMPLES / "gpt.py", workers=1, job=job)
    run = Run.begin(tmp_path / "run", EXAMPLES / "gpt.py", job=job)
    run.until(lambda: run.ended() or run.step() >= 2, "step 2")
    kill_worker(run, random.Random(0))
    assert run.wait(600) == 0, run.output()
    assert run.result()["weights_sha256"] == calm["weights_sha256"]


def test_chaos(tmp_path):
    """At least 20 kills and resizes over 200 steps: same weights, every sample exactly once per epoch."""
    settings = {"steps": 200, "batch_size": 64, "width": 16}
    expected = naive("digits", settings)
    chance = random.Random(1)
    brake = Brake(tmp_path / "brake", 198, 0)  # it does not end before the last fault, however long that takes
    job = (*flags(settings), *brake.job)
    run = Run.begin(tmp_path / "chaos", BRAKED, "--checkpoint-every=20", job=job)
    faults = resizes = 0
    while faults < 24 or run.show().get("recoveries", 0) + resizes < 20:
        # Faults are spread over the steps, and hit within them at random moments. Not all kills are losses: some hit a
        # worker that a resize has just sent away.
        run.until_step(min(faults * 7, 160) + chance.randint(1, 6))
        if faults % 3 == 2:
            run.resize(chance.randint(1, 4))
            faults += 1
            resizes += 1
        else:
            faults += kill_worker(run, chance)
    brake.release()
    assert run.wait() == 0, run.output()
    result = run.result()
    assert result["recoveries"] + resizes >= 20
    assert result["deviations"] == 0
    assert result["weights_sha256"] == expected
    positions = ledger_positions(run.directory.path, result["samples"])
    assert positions == [divmod(p, result["samples"]) for p in range(200 * 64)]
