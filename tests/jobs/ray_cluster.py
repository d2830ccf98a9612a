"""A Ray cluster of several nodes on this machine, in a process of its own, as `ray.cluster_utils` makes it.

    python ray_cluster.py NODES SLOTS     # says its address; then obeys: add, kill PID, free, end

The head has no slots. `kill` ends the node that has a process, by killing its raylet.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def serve(count, slots):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=slots) for _ in range(count)]
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        what, *which = line.split()
        answer = {}
        if what == "add":
            nodes.append(cluster.add_node(num_cpus=slots))
        elif what == "kill":
            raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
            [found] = raylets.keys() & set(ancestors(int(which[0])))
            cluster.remove_node(raylets[found], allow_graceful=False)
            nodes.remove(raylets[found])
        elif what == "free":
            import ray

            ray.init(cluster.address, log_to_driver=False)
            answer = {"free": int(ray.available_resources().get("CPU", 0))}
            ray.shutdown()
        elif what == "end":
            break
        print(json.dumps(answer), flush=True)
    cluster.shutdown()


def ancestors(pid):
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class RayCluster:
    """The other side of it."""

    def __init__(self, count: int, slots: int, path: Path) -> None:
        self._errors = (path / "ray.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(count), str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
        self.address: str = self._hear()["address"]

    def add(self) -> None:
        self._tell("add")

    def kill(self, process: int) -> None:
        """The node that has this process."""
        self._tell(f"kill {process}")

    def free(self) -> int:
        """CPUs that nobody holds."""
        return self._tell("free")["free"]

    def close(self) -> None:
        try:
            self._process.communicate("end\n", timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._errors.close()

    def _tell(self, order: str) -> dict:
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict:
        while True:
            line = self._process.stdout.readline()
            assert line, Path(self._errors.name).read_text()
            if line.startswith("{"):
                return json.loads(line)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
