"""Gangs of processes with a process group, for the tests of this folder.

One server process forks the members of each gang, which then run many checks. A check is a function of a test module
that every member calls; it compares this backend with gloo. Every wait has a deadline, after which the gang is killed
and the test fails with the stacks of its members.

Run as a script it is the server: a line of JSON on its standard input asks for a gang.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import import_module
from multiprocessing.connection import Client, Listener, wait
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # a script has its own folder only

from deadlines import DEADLINE, stretched  # noqa: E402
from warm import warm  # noqa: E402


class CheckFailed(AssertionError):
    """A member's trace, or that it hung."""


class Server:
    """Forks members. Dies with its standard input.

    Args:
        loads: what its members import.
    """

    def __init__(self, *loads):
        warm().load(*loads)
        self.process = warm().start([sys.executable, HERE / "torch_gang.py"], stdin=subprocess.PIPE, env=os.environ)
        self.gangs = {}

    def gang(self, world):
        """The idle gang of this size, or a new one."""
        gang = self.gangs.get(world)
        if gang is None or gang.broken:
            gang = self.gangs[world] = Gang(self, world)
        return gang

    def fork(self, order):
        print(json.dumps(order), file=self.process.stdin, flush=True)

    def close(self):
        for gang in self.gangs.values():
            gang.close()
        self.process.kill()
        self.process.stdin.close()
        self.process.wait(DEADLINE)


class Gang:
    """`world` processes with a default group of the backend, and a group of gloo to compare with.

    Args:
        environment: variables of the members.
        init: whether the groups are made; without it a check makes its own.
    """

    def __init__(self, server, world, environment=None, init=True):
        self.broken = False
        self.folder = tempfile.TemporaryDirectory(prefix="gang")
        address = f"{self.folder.name}/socket"
        with Listener(address, backlog=world) as listener:  # the first waits until the server has imported torch
            listener._listener._socket.settimeout(DEADLINE)
            order = {"address": address, "world": world, "environment": environment or {}, "init": init}
            server.fork({**order, "sys_path": sys.path, "key": listener._authkey and listener._authkey.hex()})
            links = [listener.accept() for _ in range(world)]
        self.members = sorted(((link.recv(), link) for link in links), key=lambda member: member[0]["rank"])
        self.world = world
        if init:
            self.run(make_groups)

    def run(self, check, *arguments, deadline=DEADLINE, alone=None):
        """The check's result on every rank (on one rank if `alone` says which). A failure breaks the gang."""
        members = self.members if alone is None else [self.members[alone]]
        for _, link in members:
            link.send((check.__module__, check.__name__, arguments))
        return self.results(members, f"{check.__name__}{arguments}", deadline)

    def start(self, check, *arguments, rank):
        """Let one rank begin; `results` waits."""
        self.members[rank][1].send((check.__module__, check.__name__, arguments))

    def until_begun(self, ranks):
        end = time.monotonic() + DEADLINE
        while not all(Path(self.folder.name, f"begun{rank}").exists() for rank in ranks):
            assert time.monotonic() < end, f"ranks {ranks} did not begin"
            time.sleep(0.005)

    def results(self, members, what, deadline=DEADLINE):
        end = time.monotonic() + deadline
        answers = {}
        waiting = {link: hello["rank"] for hello, link in members}
        while waiting:
            ready = wait(list(waiting), max(0.0, end - time.monotonic()))
            if not ready:
                self.fail(f"{what}: ranks {sorted(waiting.values())} did not come back", answers)
            for link in ready:
                rank = waiting.pop(link)
                try:
                    answers[rank] = link.recv()
                except (EOFError, ConnectionResetError):
                    answers[rank] = ("error", f"rank {rank} died")
                if answers[rank][0] == "error":
                    end = min(end, time.monotonic() + stretched(10.0))  # others may wait for it in vain
        errors = {rank: answer for rank, (kind, answer) in answers.items() if kind == "error"}
        if errors:
            self.fail(what, answers)
        return [answers[rank][1] for rank in sorted(answers)]

    def fail(self, what, answers):
        traces = [f"--- rank {rank}\n{answer}" for rank, (kind, answer) in sorted(answers.items()) if kind == "error"]
        for hello, _ in self.members:
            if hello["rank"] not in answers:
                try:
                    os.kill(hello["pid"], signal.SIGUSR1)  # prints its stacks
                except ProcessLookupError:
                    pass
        time.sleep(0.2)
        stacks = [path.read_text() for path in sorted(Path(self.folder.name).glob("stacks*"))]
        self.close()
        raise CheckFailed("\n".join([what, *traces, *filter(None, stacks)]))

    def kill(self, rank):
        os.kill(self.members[rank][0]["pid"], signal.SIGKILL)

    def close(self):
        self.broken = True
        for hello, link in self.members:
            link.close()
            try:
                os.kill(hello["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.folder.cleanup()


def make_groups():
    import torch.distributed as dist

    import manyhands.torch  # noqa: F401

    store = dist.FileStore(f"{MEMBER['folder']}/store", MEMBER["world"])
    dist.init_process_group("manyhands", store=store, rank=MEMBER["rank"], world_size=MEMBER["world"])
    MEMBER["gloo"] = dist.new_group(backend="gloo")


def begun():
    """Tell the test that this rank has got there; `Gang.until_begun` waits for it."""
    Path(MEMBER["folder"], f"begun{MEMBER['rank']}").touch()


def gloo():
    """The group of gloo with the same ranks as the default group."""
    return MEMBER["gloo"]


MEMBER = {}
"""In a member: its rank, world, folder and groups."""


def be_member(order, rank):
    import warnings

    import torch

    sys.modules["torch_gang"] = sys.modules["__main__"]
    torch.set_num_threads(1)
    os.environ.update(order["environment"], RANK=str(rank), WORLD_SIZE=str(order["world"]), LOCAL_RANK=str(rank))
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", FutureWarning)  # of torch 2.13, on names that 2.11 needs
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch.*")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # returns a view
    folder = Path(order["address"]).parent
    MEMBER.update(rank=rank, world=order["world"], folder=str(folder))
    stacks = (folder / f"stacks{rank}").open("w")
    faulthandler.enable(stacks)  # a crash leaves its stack there, too
    faulthandler.register(signal.SIGUSR1, stacks)
    link = Client(order["address"], authkey=order["key"] and bytes.fromhex(order["key"]))
    link.send({"rank": rank, "pid": os.getpid()})
    while True:
        try:
            module, name, arguments = link.recv()
        except EOFError:
            return
        try:
            answer = ("result", getattr(import_module(module), name)(*arguments))
        except BaseException:
            answer = ("error", traceback.format_exc())
        link.send(answer)


def serve():
    import pytest  # noqa: F401
    import torch._dynamo
    import torch.distributed._functional_collectives
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.distributed.pipelining
    import torch.distributed.tensor.parallel
    import torch.nn.parallel
    import torch.profiler  # noqa: F401

    import manyhands.torch  # noqa: F401
    from manyhands.engine.process import die_with_parent

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        for rank in range(order["world"]):
            if os.fork() == 0:
                code = 1
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    die_with_parent(server)
                    sys.path[:] = order["sys_path"]
                    be_member(order, rank)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)


if __name__ == "__main__":
    serve()
