"""Emulated clusters carry what their links say, and no more; they are separate, and they end without a trace."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deadlines import DEADLINE
from support_lab import PYTHON, Flow, carries, eventually, leftovers, output, processes_in

from manyhands.cluster import Cluster, Node, parse_toml, preset
from manyhands.errors import UserError
from manyhands.lab import Lab, obstacle

MB = 1_000_000
CONNECT = f"import socket,sys; socket.create_connection((sys.argv[1], 9), timeout={DEADLINE})"


def connect_error(lab: Lab, node: str, address: str) -> str:
    """How a connection to a port where nobody listens fails: refused, if the address can be reached."""
    process = lab.run(node, [*PYTHON, "-c", CONNECT, address], stderr=subprocess.PIPE, text=True)
    return process.communicate(timeout=DEADLINE)[1].strip().splitlines()[-1]


def test_links_carry_their_bandwidth_each_in_both_directions(lab):
    """Every link of the mesh at once, which also shows that they do not share anything."""
    mesh = lab("mesh-3:8MB")
    links = [(a, b) for a in mesh.cluster.ranks for b in mesh.cluster.ranks if a != b]

    def flows() -> list[Flow]:
        return [
            Flow(mesh, a, b, mesh.interfaces(b)[a, ""].address, 5 * MB, 8 * MB, port=5000 + int(a[1])) for a, b in links
        ]

    tries = carries(flows)
    counted = mesh.byte_counters()
    assert set(counted) == {(a, b, "") for a, b in links}
    assert all(5 * MB * tries <= carried < 7.5 * MB * tries for carried in counted.values())  # some of it twice


def test_a_switch_gives_every_host_its_own_speed(lab):
    star = lab("star-3:20MB,20MB,5MB")
    carries(
        lambda: [
            Flow(star, "h0", "h1", star.addresses["h1"], 10 * MB, 20 * MB),
            Flow(star, "h1", "h2", star.addresses["h2"], 4 * MB, 5 * MB),
        ]
    )


def test_rails_are_apart_and_a_link_can_be_reshaped(lab):
    rails = lab("two-rail-2:20MB,8MB")
    fast, slow = (end.address for end in rails.interfaces("h1").values())
    carries(
        lambda: [
            Flow(rails, "h0", "h1", fast, 8 * MB, 20 * MB, port=5000),
            Flow(rails, "h0", "h1", slow, 5 * MB, 8 * MB, port=5001),
        ]
    )
    rails.shape("h0", "switch1", 16 * MB)
    rails.shape("switch1", "h1", 16 * MB)
    carries(lambda: [Flow(rails, "h0", "h1", slow, 8 * MB, 16 * MB)])


def test_hosts_without_a_link_are_reached_over_others(lab):
    line = lab("line-3:16MB")
    far = line.interfaces("h2")["h1", ""].address
    assert "Network is unreachable" in connect_error(line, "h0", far)
    assert "refused" in connect_error(line, "h0", "h2")
    assert "refused" in connect_error(line, "h0", "h1.eth0")
    carries(lambda: [Flow(line, "h0", "h2", "h2", 6 * MB, 16 * MB)])
    assert line.byte_counters()["h1", "h2", ""] > 6 * MB


def test_what_no_link_leads_to_cannot_be_reached(lab):
    apart = lab(Cluster(name="apart", nodes=(Node(name="a", kind="host"), Node(name="b", kind="host")), links=()))
    assert "Network is unreachable" in connect_error(apart, "a", apart.addresses["b"])


def test_a_cut_is_seen_and_can_be_undone(lab):
    pair = lab("line-3")

    def states() -> list[str]:
        return [output(pair, host, "cat", "/sys/class/net/eth0/operstate") for host in ("h0", "h1")]

    assert states() == ["up", "up"]
    pair.cut("h0", "h1")
    eventually(lambda: all(state in ("down", "lowerlayerdown") for state in states()), "both ends to see the cut")
    for address in ("h1", "h2", pair.interfaces("h1")["h0", ""].address):
        eventually(lambda to=address: "Network is unreachable" in connect_error(pair, "h0", to), "the route to go")
    pair.restore("h0", "h1")
    for address in ("h1", "h2"):
        eventually(lambda to=address: "refused" in connect_error(pair, "h0", to), "the route to be back")
    eventually(lambda: states() == ["up", "up"], "both ends to see that it is mended")
    with pytest.raises(UserError, match="no link h0 - h2"):
        pair.cut("h0", "h2")


def test_hosts_look_like_machines_of_their_own(lab):
    mesh = lab("mesh-2")
    name = f"lab-test-{os.getpid()}"
    output(mesh, "h0", "touch", f"/dev/shm/{name}")
    assert name in output(mesh, "h0", "ls", "/dev/shm")
    assert name not in output(mesh, "h1", "ls", "/dev/shm")
    assert not Path("/dev/shm", name).exists()
    kinds = ("net", "mnt", "ipc", "uts", "pid")
    read = [f"/proc/self/ns/{kind}" for kind in kinds]
    seen = [output(mesh, node, "readlink", *read).split() for node in ("h0", "h1")] + [
        [str(Path(path).readlink()) for path in read]
    ]
    assert all(len(set(different)) == 3 for different in zip(*seen, strict=True))
    assert output(mesh, "h1", "hostname") == "h1"
    assert set(output(mesh, "h1", "ls", "/sys/class/net").split()) == {"lo", "eth0", "host"}


def test_devices_of_a_machine_share_a_host(lab):
    cluster = preset("2x-dgx-a100").subset(["gpu0", "gpu1", "gpu8"]).scaled(1e-4)
    machines = lab(cluster)
    assert [output(machines, gpu, "hostname") for gpu in cluster.ranks] == ["h0", "h0", "h1"]
    told = machines.environment("gpu1")
    assert [told[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")] == ["1", "3", "1", "2"]
    assert told["MASTER_ADDR"] == machines.addresses["gpu0"]
    assert "refused" in connect_error(machines, "gpu0", machines.interfaces("gpu8")["ib", ""].address)


def test_a_process_for_every_rank(lab):
    star = lab("star-2+1")
    processes = star.run_all(
        ["sh", "-c", "echo {rank} {node} {world_size} {master} $RANK $WORLD_SIZE $MASTER_ADDR; cat $MANYHANDS_CLUSTER"],
        stdout=subprocess.PIPE,
        text=True,
    )
    told = [process.communicate(timeout=DEADLINE)[0].split("\n", 1) for process in processes]
    master = star.addresses["h0"]
    assert [line for line, _ in told] == [f"{i} h{i} 2 {master} {i} 2 {master}" for i in range(2)]
    assert [parse_toml(file) for _, file in told] == [star.cluster] * 2
    assert "MANYHANDS_CLUSTER=" in output(star, "helper0", "env")
    with pytest.raises(UserError, match="there is no h7"):
        star.run("h7", ["true"])


def test_how_commands_end(lab):
    mesh = lab("mesh-1")
    assert mesh.run("h0", ["sh", "-c", "exit 7"]).wait(DEADLINE) == 7
    missing = mesh.run("h0", ["no-such-command"], stderr=subprocess.PIPE, text=True)
    assert "no-such-command: No such file" in missing.communicate(timeout=DEADLINE)[1]
    assert missing.returncode == 127
    for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = mesh.run("h0", ["sleep", "1000"])
        command = Path(f"/proc/{process.command_pid}/cmdline")
        eventually(lambda command=command: command.read_bytes() == b"sleep\x001000\x00", "the command")
        process.send_signal(signum)
        assert process.wait(DEADLINE) == -signum
    process = mesh.run("h0", ["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"],
                       stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(DEADLINE) == 5
    process.stdout.close()
    assert mesh.run("h0", ["pwd"], cwd="/tmp", stdout=subprocess.PIPE).communicate(timeout=DEADLINE)[0] == b"/tmp\n"


def test_a_host_runs_commands_on_another(lab):
    """As mpirun does through its rsh agent."""
    line = lab("line-3")
    shell = line.remote_shell()
    command = "read word; echo $word from $(hostname), $RANK; echo problem >&2; exit 3"
    process = line.run("h0", [*shell, "h2", *command.split(" ")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.communicate("hello\n", timeout=DEADLINE) == ("hello from h2,\n", "problem\n")
    assert process.returncode == 3
    lost = line.run("h0", [*shell, "h7", "true"], stderr=subprocess.PIPE, text=True)
    assert "there is no host h7. The lab has h0, h1, h2." in lost.communicate(timeout=DEADLINE)[1]
    asking = line.run("h0", [*shell, "h1", "echo here; exec sleep 1000"], stdout=subprocess.PIPE)
    assert asking.stdout.readline() == b"here\n"
    assert b"sleep" in running(line, "h1")
    asking.kill()
    assert asking.wait(DEADLINE) == -signal.SIGKILL
    asking.stdout.close()
    eventually(lambda: b"sleep" not in running(line, "h1"), "the command to end with the one who asked")


def running(lab: Lab, node: str) -> bytes:
    """The command lines of a host's processes."""
    space = output(lab, node, "readlink", "/proc/self/ns/net")
    lines = []
    for pid in processes_in({space}):
        with contextlib.suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return b"\n".join(lines)


DAEMON = "setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 & echo started; wait"


def test_closing_ends_whatever_runs(lab):
    mesh = lab("mesh-2")
    process = mesh.run("h0", ["sh", "-c", DAEMON], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    spaces = {output(mesh, node, "readlink", "/proc/self/ns/net") for node in ("h0", "h1")}
    assert len(processes_in(spaces)) >= 5
    mesh.close()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert processes_in(spaces) == []
    assert leftovers(os.getpid()) == []


OWNER = f"""
import sys
from manyhands.cluster import preset
from manyhands.lab import Lab
print("here", flush=True)
with Lab(preset("star-3")) as lab:
    for process in lab.run_all(["sh", "-c", "readlink /proc/self/ns/net; {DAEMON}"]):
        pass
    process.wait()
"""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.parametrize("victim", ["owner", "keeper"])
def test_nothing_is_left_behind_after_sigkill(lab, victim):
    interfaces = Path("/proc/net/dev").read_text().count(":")
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    lines = [owner.stdout.readline().strip() for _ in range(7)]
    spaces = {line for line in lines if line.startswith("net:")}
    assert len(spaces) == 3
    assert len(processes_in(spaces)) >= 12
    holders = leftovers(owner.pid)
    assert len(holders) == 5  # three hosts, a switch, and the one that made them
    (keeper,) = {parent(holder) for holder in holders} - {owner.pid}
    os.kill(owner.pid if victim == "owner" else keeper, signal.SIGKILL)
    eventually(lambda: not processes_in(spaces) and not leftovers(owner.pid), "all processes of the lab to be gone")
    eventually(lambda: Path("/proc/net/dev").read_text().count(":") == interfaces, "its interfaces to be gone")
    owner.kill()
    owner.wait()
    owner.stdout.close()


@pytest.mark.parametrize("delay", [0.02, 0.06, 0.12, 0.2])
def test_nothing_is_left_behind_by_a_lab_that_was_not_finished(lab, delay):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "here\n"
    time.sleep(delay)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    eventually(lambda: not leftovers(owner.pid), "all processes of the lab to be gone")


def test_a_lab_that_cannot_be_set_up_leaves_nothing(lab):
    with pytest.raises(UserError, match=r"h0 -> h1: the lab emulates at most 4 GB/s, not 300.*scaled"):
        lab(preset("mesh-2").scaled(12000))
    assert leftovers(os.getpid()) == []


def test_a_lab_made_on_a_thread_outlives_the_thread(lab):
    import threading

    made = []
    thread = threading.Thread(target=lambda: made.append(lab("mesh-1")))
    thread.start()
    thread.join()
    assert output(made[0], "h0", "hostname") == "h0"


def test_what_stands_in_the_way(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert "needs root" in obstacle()
        with pytest.raises(UserError, match="sudo"):
            Lab(preset("mesh-2"))
    if os.geteuid() == 0:
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda name: None)
            assert "pip install 'manyhands[lab]'" in (obstacle() or "")


def test_importing_it_needs_neither_torch_nor_pyroute2():
    code = "import sys, manyhands.lab; print({'torch', 'pyroute2', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
