"""Scripts as a user starts them: how they begin, and that they end, cleanly and soon."""

import itertools
import os
import socket
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import warm
from deadlines import DEADLINE
from support import EXAMPLES

from manyhands.cluster import preset, write_toml

BEGIN = """
    import logging, os, sys, warnings
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    import torch, torch.distributed as dist
    warnings.simplefilter("error")
    import manyhands.torch
    dist.init_process_group("manyhands")
    rank, world = dist.get_rank(), dist.get_world_size()
    x = torch.ones(1000)
"""


PORTS = itertools.count(20_000 + os.getpid() % 500 * 20)
"""Below those that the kernel gives to whoever asks for any: nobody takes one between its choice and its use."""


def free_port():
    for port in PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def script(body, world=2, **environment):
    """Run it in `world` processes with the usual rank variables; their exit codes, outputs and errors."""
    text = textwrap.dedent(BEGIN) + textwrap.dedent(body)
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), **environment}

    def run(rank):
        words, own = [sys.executable, "-c", text], {**os.environ, **variables, "RANK": str(rank)}
        done = warm.run(words, DEADLINE, env=own)
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(run, range(world)))


def assert_clean(results):
    for code, _, err in results:
        assert code == 0, err
        assert not [line for line in err.splitlines() if not line.startswith("manyhands: ")], err


def test_what_is_logged_and_a_clean_end():
    results = script(
        """
        dist.all_reduce(x)
        pair = dist.new_group()
        dist.all_reduce(x, group=pair)
        assert x[0] == world**2
        dist.destroy_process_group()
        """
    )
    assert_clean(results)
    first, second = (err.splitlines() for _, _, err in results)
    assert len(first) == 1 and second == [], "one line, of rank 0 and the default group alone"


@pytest.mark.parametrize(
    "body",
    [
        """
        work = dist.all_reduce(x, async_op=True)
        work.get_future().then(lambda future: future.value())
        sys.exit(0)
        """,
        """
        if rank == 0:
            waiting = dist.irecv(x, 1)  # what never comes
        dist.barrier()
        dist.destroy_process_group()
        """,
    ],
    ids=["without destroy", "a receive in flight"],
)
def test_other_ends(body):
    results = script(body)
    for code, _, err in results:
        assert code == 0 and "Traceback" not in err, err


def test_one_process():
    results = script(
        """
        dist.all_reduce(x, dist.ReduceOp.AVG)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 3))
        model(torch.ones(2, 3)).sum().backward()
        dist.destroy_process_group()
        """,
        world=1,
    )
    assert_clean(results)


def test_a_cluster_that_does_not_fit(tmp_path):
    write_toml(preset("mesh-3"), tmp_path / "three.toml")
    for code, _, err in script("", MANYHANDS_CLUSTER=str(tmp_path / "three.toml")):
        assert code == 1
        assert "cluster mesh-3 has 3 devices and hosts, but there are 2 ranks" in err


def test_a_cluster_that_is_given(tmp_path):
    """Planned for the links of the file; a subgroup for those among its members."""
    write_toml(preset("mesh-3"), tmp_path / "three.toml")
    results = script(
        """
        for op in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
            dist.all_reduce(x, op)
        pair = dist.new_group([0, 2])
        if rank != 1:
            dist.all_reduce(x, group=pair)
        assert x[-1] == (3 if rank == 1 else 6)
        dist.destroy_process_group()
        """,
        world=3,
        MANYHANDS_CLUSTER=str(tmp_path / "three.toml"),
    )
    assert_clean(results)


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", f"--master-port={free_port()}"]
    done = warm.run([*command, *map(str, arguments)], DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example():
    assert "manyhands, 2 ranks: loss 0." in torchrun(EXAMPLES / "ddp.py")


@pytest.mark.slow
def test_the_example_trains_as_over_gloo():
    ours, theirs = (torchrun(EXAMPLES / "ddp.py", "--backend", name) for name in ("manyhands", "gloo"))
    assert ours.split("loss ")[1].split(",")[0] == theirs.split("loss ")[1].split(",")[0]
