"""Processes that have imported torch before they begin.

A short training is mostly the seconds in which its processes import torch. So one process imports it, and each command
that a test gives is a fork of that one. Where a command starts Python in turn (templates, guests of agents,
controllers, supervisors of jobs), it is forked where `subprocess` would execute it, with the same descriptors,
environment, folder, session and signals. Otherwise they are the processes that a user has.

`MANYHANDS_COLD=1` has Python executed for each, as it is for a user: `make test-all` does that.

Run as a script it is the process that is forked: it listens at a path, and ends with its standard input.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TextIO

from manyhands.lab.inside import CLUSTER_FILE, NAMESPACES, enter_namespace
from manyhands.lab.wiring import place_of

COLD = os.environ.get("MANYHANDS_COLD", "") not in ("", "0")
LOADS = (
    "numpy",
    "pytest",
    "torch",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "torch.nn.parallel",
    "torch.profiler",
    "torch.utils.data",
    "manyhands.api",
    "manyhands.cli.main",
    "manyhands.cli.parse",
    "manyhands.cli.train",
    "manyhands.engine.hosts.agent",
    "manyhands.engine.template",
    "manyhands.report",
    "manyhands.supervise",
    "manyhands.torch",
    "manyhands.training.entry",
    "manyhands.training.worker",
)
"""What processes of manyhands and of tests import; nothing of it starts a thread."""
_ONCE = ("PYTHON", "LD_", "OMP_", "MKL_", "TORCH_", "KMP_", "GOMP_")
"""What variables begin with that are read once, when Python starts or torch is loaded."""
_STREAMS = ("PYTHONUNBUFFERED",)
"""But for those that a fork obeys, too."""
_HASHES = {"PYTHONHASHSEED": "0"}
"""As templates have it; others have any, so this one will do."""


def load(*modules: str) -> None:
    """Have modules imported, if they are there: for what is started from now on."""
    if not COLD:
        warm().load(*modules)


def popen(words: Sequence[str], **options) -> subprocess.Popen | WarmProcess:
    """As `subprocess.Popen` of a command: a fork if it is Python, and nothing special is asked."""
    environment = options.get("env") or os.environ
    if (
        COLD
        or options.keys() - {"stdin", "stdout", "stderr", "text", "env", "cwd"}
        or not warm().takes(words, environment)
    ):
        return subprocess.Popen(words, **options)
    return warm().start(words, **{**options, "env": environment})


def run(words: Sequence[str], timeout: float, **options) -> subprocess.CompletedProcess:
    """As `subprocess.run` of a command, which waits for all that hold its output, too."""
    process = popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    with process.stdout, process.stderr, ThreadPoolExecutor(2) as pool:
        output, errors = pool.submit(process.stdout.read), pool.submit(process.stderr.read)
        try:
            wait([output, errors], timeout)
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(words, code, output.result(), errors.result())


@cache
def warm() -> Warm:
    """That of this process, which ends with it."""
    made = Warm()
    atexit.register(made.close)
    return made


@contextmanager
def in_lab(lab, nodes: Sequence[str]) -> Iterator[dict[str, Callable]]:
    """What starts commands on nodes of a lab, as `popen` does here."""
    if COLD:
        yield {node: partial(lab.run, node) for node in nodes}
        return
    with ExitStack() as made:
        there = {node: made.enter_context(closing(Warm(partial(_start_in_lab, lab, node)))) for node in nodes}
        yield {node: each.start for node, each in there.items()}


def _start_in_lab(lab, node: str, words: Sequence[str], env: Mapping[str, str], **options) -> WarmProcess:
    place = place_of(lab.cluster.by_name[node])
    own = {"MANYHANDS_CLUSTER": CLUSTER_FILE, **lab.environment(node)}
    return warm().start(words, env={**env, **own}, enter=lab._holders[place], **options)


class WarmProcess:
    """What `subprocess.Popen` offers of a process, for one that is a child of another, maybe in a lab.

    Args:
        link: tells how it ended.
        handle: a descriptor of the process.
    """

    def __init__(self, link: socket.socket, handle: int, streams: list[TextIO | None]) -> None:
        self._link, self._handle = link, handle
        self.stdin, self.stdout, self.stderr = streams
        self.returncode: int | None = None
        about = Path(f"/proc/self/fdinfo/{handle}").read_text()
        self.pid = int(about.split("\nPid:")[1].split()[0])

    def poll(self) -> int | None:
        return self._hear(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._hear(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _hear(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._link], [], [], timeout)[0]:
            self.returncode = json.loads(self._link.recv(100) or str(-signal.SIGKILL))
            self._link.close()
            os.close(self._handle)
        return self.returncode


class Warm:
    """The process that commands are forked from.

    Args:
        start: starts it.
    """

    def __init__(self, start: Callable = subprocess.Popen) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm")
        self._path = f"{self._folder.name}/socket"
        self._once = _read_once(os.environ)
        how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": os.environ | _HASHES}
        self.process = start([sys.executable, __file__, self._path], **how)
        assert self.process.stdout.readline(), "it has ended"

    def takes(self, words: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether a fork can stand in for Python."""
        return is_python(words) and _read_once(environment) == self._once

    def load(self, *modules: str) -> None:
        """Import more, if they are there: for all that is forked from now on."""
        with self._link() as link:
            link.send(json.dumps(modules).encode())
            link.recv(100)

    def start(
        self, words, stdin=None, stdout=None, stderr=None, text=True, env=None, cwd=None, enter=None
    ) -> WarmProcess:
        """As `subprocess.Popen`. Without `env` its environment is that of the process that is forked.

        Args:
            enter: a process whose namespaces it has.
        """
        assert text
        link = self._link()
        asked = {
            "words": list(map(str, words)),
            "environment": env and dict(env),
            "cwd": str(cwd or Path.cwd()),
            "enter": enter,
        }
        with ExitStack() as held:
            null = held.enter_context(Path(os.devnull).open("r+b")).fileno()
            theirs, ours = [null, 1, 2], [None, None, None]
            for at, stream in enumerate((stdin, stdout, stderr)):
                if stream == subprocess.PIPE:
                    ends = os.pipe()
                    theirs[at], own = ends if at == 0 else reversed(ends)
                    held.callback(os.close, theirs[at])
                    ours[at] = os.fdopen(own, "r" if at else "w")
                elif stream == subprocess.STDOUT:
                    theirs[at] = theirs[1]
                elif stream is not None:
                    theirs[at] = null if stream == subprocess.DEVNULL else stream.fileno()
            file = held.enter_context(tempfile.TemporaryFile())  # a message has room for less
            file.write(json.dumps(asked).encode())
            file.flush()
            socket.send_fds(link, [b"start"], [file.fileno(), *theirs])
            return WarmProcess(link, socket.recv_fds(link, 100, 1)[1][0], ours)

    def _link(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.connect(self._path)
        return link

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self._folder.cleanup()


def is_python(words: Sequence[str]) -> bool:
    """Whether a command is Python without options: with a module, a script, or a program."""
    return len(words) > 1 and words[0] == sys.executable and (words[1] in ("-m", "-c") or not words[1].startswith("-"))


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    found = {k: v for k, v in environment.items() if k.startswith(_ONCE) and k not in _STREAMS}
    return _HASHES | found


# The process that is forked


def serve(path: str) -> None:
    """Fork whatever is asked for, and tell how it ended."""
    _load(LOADS)
    subprocess._fork_exec = fork_exec
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the tests decide
    links: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, woken, 0], [], [])
        if 0 in ready:
            for pid in links:
                os.kill(pid, signal.SIGKILL)
            return
        if woken in ready:
            os.read(woken, 4096)
            while links and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                link = links.pop(ended[0])
                with suppress(OSError):  # nobody asks
                    link.send(json.dumps(os.waitstatus_to_exitcode(ended[1])).encode())
                link.close()
        if listener in ready:
            link, _ = listener.accept()
            message, descriptors, _, _ = socket.recv_fds(link, 10_000, 4)
            if not descriptors:
                _load(json.loads(message))
                link.send(b"loaded")
                link.close()
                continue
            file, *streams = descriptors
            asked = json.loads(os.pread(file, os.fstat(file).st_size, 0))
            asked["environment"] = asked["environment"] or dict(os.environ)
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                become(streams=streams, keep=(), **asked)
            for descriptor in (file, *streams):
                os.close(descriptor)
            links[pid] = link
            handle = os.pidfd_open(pid)
            socket.send_fds(link, [b"started"], [handle])
            os.close(handle)


def _load(modules: Iterable[str]) -> None:
    gc.disable()
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # forks share these pages


_executed = subprocess._fork_exec


def fork_exec(
    args, executables, close_fds, keep, cwd, env, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, errpipe_read,
    errpipe_write, restore_signals, start_new_session, process_group, gid, gids, uid, umask, preexec_fn, *more,
):  # fmt: skip
    """In the place of what `subprocess` calls, with the same arguments; the process id."""
    words = [os.fsdecode(word) for word in args]
    rest = (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, errpipe_read, errpipe_write, restore_signals)
    rest += (start_new_session, process_group, gid, gids, uid, umask, preexec_fn, *more)
    environment = dict(os.environ) if env is None else dict(os.fsdecode(pair).split("=", 1) for pair in env)
    odd = process_group != -1 or (gid, gids, uid, preexec_fn) != (None,) * 4
    if odd or not close_fds or not is_python(words) or _read_once(environment) != _read_once(os.environ):
        return _executed(args, executables, close_fds, keep, cwd, env, *rest)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        kept = [descriptor for descriptor in keep if descriptor != errpipe_write]
        streams = [
            0 if p2cread == -1 else p2cread,
            1 if c2pwrite == -1 else c2pwrite,
            2 if errwrite == -1 else errwrite,
        ]
        become(words, environment, None if cwd is None else os.fsdecode(cwd), streams, kept, start_new_session, umask)
    return pid


def become(
    words: list[str],
    environment: Mapping[str, str],
    cwd: str | None,
    streams: Sequence[int],
    keep: Iterable[int],
    new_session: bool = False,
    umask: int = -1,
    enter: int | None = None,
) -> NoReturn:
    """In a fork: be what `words` say, as if they had been executed. Nothing that the parent had goes on, or is ended:
    its objects stay, as their descriptors have other meanings now."""
    code = 1
    try:
        gc.freeze()
        _forget()
        if enter is not None:
            _enter(enter)
        os.chdir(cwd or ".")
        if umask >= 0:
            os.umask(umask)
        if new_session:
            os.setsid()
        high = [os.dup(stream) if stream < 3 else stream for stream in streams]
        for number, stream in enumerate(high):
            os.dup2(stream, number)
        last = 3
        for descriptor in sorted(keep):
            os.closerange(last, descriptor)
            os.set_inheritable(descriptor, True)
            last = descriptor + 1
        os.closerange(last, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(environment)
        _open_streams()
        gc.enable()
        code = _run(words)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _enter(process: int) -> None:
    """The namespaces of another process, as `manyhands.lab` does it: who enters them of processes is a child."""
    for name, kind in NAMESPACES.items():
        enter_namespace(f"/proc/{process}/ns/{name}", kind)
    child = os.fork()
    if child:
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def _forget() -> None:
    """What the parent would have done: on signals, at its end, in its threads."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    faulthandler.disable()
    faulthandler.unregister(signal.SIGUSR1)
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    threading._threading_atexits.clear()


def _open_streams() -> None:
    now = {"write_through": True} if os.environ.get("PYTHONUNBUFFERED") else {}
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False, errors="backslashreplace")
    sys.stdout.reconfigure(line_buffering=os.isatty(1), **now)
    sys.stderr.reconfigure(line_buffering=True, **now)


def _run(words: list[str]) -> int:
    """As Python would; the exit code."""
    sys.orig_argv = list(words)
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)  # it was imported before
    kind = words[1] if words[1] in ("-m", "-c") else "script"
    sys.argv = words[1:] if kind == "script" else words[2:] if kind == "-m" else ["-c", *words[3:]]
    sys.path[0] = {"-m": str(Path.cwd()), "-c": "", "script": str(Path(words[1]).resolve().parent)}[kind]
    try:
        if kind == "-m":
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        elif kind == "script":
            sys.modules["__main__"] = module = ModuleType("__main__")
            module.__file__ = words[1]
            exec(compile(Path(words[1]).read_bytes(), words[1], "exec"), vars(module))
        else:
            sys.modules["__main__"] = module = ModuleType("__main__")
            exec(compile(words[2], "<string>", "exec"), vars(module))
        return 0
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130


def _end(code: int) -> NoReturn:
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
