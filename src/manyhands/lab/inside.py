"""The processes that hold a lab up and enter its hosts. Run as a script of its own, with the standard library alone.

    python -I -S inside.py hold OWNER     keeps the namespaces
    python -I -S inside.py enter OWNER PID FD COMMAND...     runs a command in those that process PID holds
    python -I -S inside.py remote HOST WORDS...        from inside, has the owner run a shell command on another host

`hold` reads a list of places as JSON, makes namespaces for each (network, mounts, IPC, host name, processes) and
answers {place: PID}, the PIDs of their first processes. The namespaces have no names: they exist as long as these
processes. When the owner ends, however it does, its pidfd wakes `hold`, which kills them; when `hold` is killed, the
kernel does (PR_SET_PDEATHSIG). With the first process of a PID namespace die all others in it, and with the
last process of a network namespace its interfaces go. So nothing is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_PID, NEW_NET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
NAMESPACES = {"ipc": NEW_IPC, "uts": NEW_UTS, "net": NEW_NET, "pid": NEW_PID, "mnt": NEW_MOUNTS}
SHARED_MEMORY = "/dev/shm"
CLUSTER_FILE = f"{SHARED_MEMORY}/manyhands-cluster.toml"
"""The description of the cluster, in each host's own shared memory."""
REMOTE_SHELL = "\0manyhands-lab"
"""An abstract socket, which only processes in the same network namespace see."""
CANNOT_ENTER = 125
_MS_BIND, _MS_REC, _MS_PRIVATE, _DETACH = 0x1000, 0x4000, 0x40000, 2
_PR_SET_PDEATHSIG = 1
_SYSCTL = {
    "net/ipv4/ip_forward": "1",  # hosts pass on what is for others, where a mesh is partial
    "net/ipv4/conf/all/rp_filter": "0",  # the way back may be another one
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/arp_ignore": "1",  # two interfaces in one subnet answer each for itself
    "net/ipv4/conf/all/arp_announce": "2",
    "net/ipv6/conf/all/disable_ipv6": "1",  # its chatter would be counted as traffic
    "net/ipv6/conf/default/disable_ipv6": "1",
}
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def unshare(flags: int) -> None:
    """Move this process, or for processes its children, to new namespaces."""
    _checked(_libc.unshare(flags), "unshare")


def enter_namespace(path: str, kind: int) -> None:
    """Move this thread to a namespace."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(fd, kind), f"setns {path}")
    finally:
        os.close(fd)


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    _checked(_libc.mount(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)), f"mount {target}")


def _die_with_parent() -> None:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def hold(owner: int) -> None:
    """Hold namespaces for the places named on standard input until the owner ends or closes it."""
    os.setsid()  # an interrupt from the keyboard is the owner's affair
    try:
        ended = os.pidfd_open(owner)
    except ProcessLookupError:
        return
    if os.getppid() != owner:
        return
    places = json.loads(sys.stdin.buffer.readline())
    home = os.open("/proc/self/ns/pid", os.O_RDONLY)
    holders: dict[str, int] = {}
    try:
        for place in places:
            ready, tell = os.pipe()
            unshare(NEW_PID)
            holders[place["name"]] = pid = os.fork()
            if pid == 0:
                os.close(ready)
                _be_first_process(place, tell)
            _checked(_libc.setns(home, NEW_PID), "setns")
            os.close(tell)
            answer = os.read(ready, 4096)
            os.close(ready)
            if answer != b"ready":
                raise OSError(f"{place['name']}: {answer.decode(errors='replace') or 'its first process died'}")
        _answer({"holders": holders})
        select.select([ended, sys.stdin.fileno()], [], [])
    except OSError as error:
        _answer({"error": str(error)})
    finally:
        for pid in holders.values():
            os.kill(pid, signal.SIGKILL)
        for pid in holders.values():
            os.waitpid(pid, 0)


def _answer(message: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def _be_first_process(place: dict[str, str], tell: int) -> NoReturn:
    """Become process 1 of a host: set it up, then bury its dead until killed."""
    try:
        _die_with_parent()
        unshare(NEW_NET | NEW_MOUNTS | NEW_IPC | NEW_UTS)
        _checked(_libc.sethostname(place["hostname"].encode(), len(place["hostname"].encode())), "sethostname")
        _set_up_files(place)
        for name, value in _SYSCTL.items():
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                Path("/proc/sys", name).write_text(value)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        os.write(tell, b"ready")  # fails if the parent died before it could take this process with it
        os.close(tell)
        os.closerange(3, 256)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        while True:
            signal.sigwait([signal.SIGCHLD])
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(tell, str(error).encode()[:4000] or b"interrupted")
    os._exit(1)


def _set_up_files(place: dict[str, str]) -> None:
    """Give a host its own shared memory, /proc, network in /sys, and /etc/hosts; all else is the machine's."""
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    _mount("tmpfs", SHARED_MEMORY, "tmpfs")  # a scratch place that the next mount hides
    hosts = Path(SHARED_MEMORY, "hosts")
    hosts.write_text(place["hosts"])
    if Path("/etc/hosts").exists():
        _mount(str(hosts), "/etc/hosts", flags=_MS_BIND)
    sys_mount = f"{SHARED_MEMORY}/sys"
    Path(sys_mount).mkdir()
    _mount("sysfs", sys_mount, "sysfs")
    for part in ("class/net", "devices/virtual/net"):  # the rest of /sys keeps what is mounted in it, as cgroups
        _mount(f"{sys_mount}/{part}", f"/sys/{part}", flags=_MS_BIND)
    _checked(_libc.umount2(sys_mount.encode(), _DETACH), "umount")
    _mount("proc", "/proc", "proc")
    _mount("tmpfs", SHARED_MEMORY, "tmpfs", options="mode=1777")
    Path(CLUSTER_FILE).write_text(place["cluster"])


def enter(holder: int, tell: int, command: list[str]) -> int:
    """Run a command where the holder is; tell its process number; the exit code, or end by the same signal."""
    directory = str(Path.cwd())
    for name, kind in NAMESPACES.items():
        enter_namespace(f"/proc/{holder}/ns/{name}", kind)
    with contextlib.suppress(OSError):
        os.chdir(directory)
    forwarded = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)  # one that Python catches before exec would be lost
    child = os.fork()
    if child == 0:
        os.close(tell)
        _become(command, before)
    for signum in (signal.SIGINT, signal.SIGQUIT):  # the keyboard's go to the command as well, which decides
        signal.signal(signum, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda signum, frame: os.kill(child, signum))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        os.write(tell, str(child).encode())
    os.close(tell)
    for fd in (0, 1):  # so that a reader sees the end when the command closes its own
        os.close(fd)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has dumped its own
        os.kill(os.getpid(), -code)
    return code


def _become(command: list[str], mask: Collection[int]) -> NoReturn:
    try:
        _die_with_parent()
        if os.getppid() != 0:  # a parent outside of the PID namespace shows as 0; it died and process 1 took over
            os._exit(CANNOT_ENTER)
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, programs expect them
            signal.signal(signum, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def remote(host: str, words: list[str]) -> int:
    """Run words on a host as `ssh HOST WORDS...` does, with this process's standard streams; returns the exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(REMOTE_SHELL)
        socket.send_fds(connection, [json.dumps({"host": host, "command": " ".join(words)}).encode()], [0, 1, 2])
        answer = connection.recv(4096)
    told = json.loads(answer or b'{"error": "the lab has ended"}')
    if "error" in told:
        raise OSError(told["error"])
    return told["code"] if told["code"] >= 0 else 128 - told["code"]


def main() -> int:
    if sys.argv[1] == "hold":
        hold(int(sys.argv[2]))
        return 0
    try:
        if sys.argv[1] == "remote":
            return remote(sys.argv[2], sys.argv[3:])
        return enter(int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    except OSError as error:
        if sys.argv[1] == "remote" or os.getppid() == int(sys.argv[2]):  # else the lab ended with its owner
            os.write(2, f"cannot enter the host: {error}\n".encode())
        return CANNOT_ENTER
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
