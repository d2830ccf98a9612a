"""PyTorch's own tests of its process groups, run over this backend.

They come with torch (`torch.testing._internal`) and want the package `expecttest`; a gang runs them one after another.
They are told that the backend is gloo, so that they test all that gloo can do.
"""

import os
import sys
import unittest
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from deadlines import stretched
from torch_gang import MEMBER, CheckFailed, Gang

WORLD = 3

NOT_OURS = {
    "test_get_backend": "asserts that the backend is gloo",
    "test_barrier_timeout_full_group": "asserts gloo's words for a timeout",
    "test_monitored_barrier_gloo": "PyTorch allows it for gloo alone",
    "test_monitored_barrier_gloo_rank_0_timeout": "PyTorch allows it for gloo alone",
    "test_monitored_barrier_gloo_subgroup": "PyTorch allows it for gloo alone",
    "test_SyncBatchNorm_process_group": "wants torchvision",
    "test_all_to_all_cuda": "wants CUDA and does not say so",
    "test_all_to_all_cuda_complex": "wants CUDA and does not say so",
    "test_all_to_all_full_group_cuda": "wants CUDA and does not say so",
    "test_batch_isend_irecv_mixed_backend_err": "wants CUDA and does not say so",
    "test_batch_isend_irecv_op_err": "wants CUDA and does not say so",
    "test_barrier_timeout_global": "wants an address in the environment",
    "test_new_subgroups_with_group_param": "wants four ranks",
}
"""Tests that say something about gloo, or want what is not here; but for the first five, gloo fails them as well."""


def suite():
    """The class with the tests, made for this process."""
    sys.argv = ["test"]
    folder = Path(MEMBER["folder"]) / "temporary"
    for name in ("barrier", "test_dir", "init_dir"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.environ["TEMP_DIR"] = str(folder)
    import warnings

    warnings.simplefilter("ignore")
    from torch.testing._internal.distributed import distributed_test as upstream

    class Suite(upstream.TestDistBackend, upstream.DistributedTest._DistTestBase):
        pass

    return Suite


def names():
    return [name for name in dir(suite()) if name.startswith("test_")]


def run_one(name, backend):
    """How it went: passed, or why it was skipped."""
    import manyhands.torch  # noqa: F401

    store = dist.FileStore(f"{MEMBER['folder']}/store.{name}", MEMBER["world"])
    test = suite()(name)
    dist.init_process_group(
        backend, store=store, rank=MEMBER["rank"], world_size=MEMBER["world"], timeout=timedelta(seconds=stretched(20))
    )
    test.rank, test.file_name = MEMBER["rank"], f"{MEMBER['folder']}/init"
    try:
        getattr(test, name)()
    except unittest.SkipTest as reason:
        outcome = f"skipped: {reason}"
    except SystemExit as end:
        outcome = f"skipped: {end.code}"
    else:
        outcome = "passed"
    dist.barrier()
    dist.destroy_process_group()
    return outcome


def outcomes(server, backend, chosen=None):
    """Of every test; a failure is the last line of each rank's trace."""
    lister = Gang(server, 1, {"BACKEND": "gloo"}, init=False)
    (found,) = lister.run(names)
    lister.close()
    results = {}
    gang = None
    for name in chosen or sorted(set(found) - set(NOT_OURS)):
        if gang is None or gang.broken:
            gang = Gang(server, WORLD, {"BACKEND": "gloo"}, init=False)
        try:
            results[name] = gang.run(run_one, name, backend, deadline=stretched(30.0))[0]
        except CheckFailed as error:
            results[name] = f"failed: {error}"
    gang.close()
    return results


@pytest.mark.slow
def test_pytorchs_own_tests(server):
    pytest.importorskip("expecttest")
    results = outcomes(server, "manyhands")
    failures = {name: text for name, text in results.items() if text.startswith("failed")}
    assert not failures, "\n\n".join(f"{name}: {text}" for name, text in failures.items())
    assert sum(text == "passed" for text in results.values()) > 90
