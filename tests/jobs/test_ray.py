"""Jobs on the nodes of a Ray cluster, which come and go. (How long it takes, benchmarks/ray_recovery.py measures.)"""

import importlib.util
import subprocess
import sys

import pytest
from home import JOB, TestHome
from ray_cluster import RayCluster
from support import Brake, train

STEPS = 60
LONG = (f"--steps={STEPS}",)

pytest.importorskip("starlette", reason="starlette is not installed")
if importlib.util.find_spec("ray") is None:  # importing it takes a second
    pytest.skip("ray is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Four nodes: the head, which has no slots, and three with two each."""
    cluster = RayCluster(3, 2, tmp_path_factory.mktemp("ray"))
    yield cluster
    cluster.close()


@pytest.fixture
def brake(tmp_path) -> Brake:
    return Brake(tmp_path / "brake", STEPS - 4, 0.05)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return train(tmp_path_factory.mktemp("calm") / "run", JOB, workers=1, job=LONG)["weights_sha256"]


def there(shown: dict) -> int:
    return sum(host["there"] for host in shown["hosts"])


def test_nodes_come_and_go(cluster, home, brake, calm):
    assert "6 slot(s) on 3 hosts" in home.up("--ray", cluster.address)
    number = home.submit("--workers", 3, job=(*LONG, *brake.job))
    home.until_job(number, "running", step=3, workers=3)
    assert cluster.free() == 0, "a placement group holds what the controller gives away"
    brake.slow_down(2.0)  # there are steps left when all this is over

    home.kill_controller()
    assert "6 slot(s) on 3 hosts" in home.up("--ray", cluster.address), "the agents are found again"
    before = home.until_job(number, "running", workers=3)

    lost = before["workers"][0]
    cluster.kill(lost["pid"])
    home.until(lambda shown: there(shown) == 2, "the loss of a node to be seen")
    brake.slow_down(0.05)
    back = home.until_job(number, "running", step=before["step"] + 1, workers=3)
    assert lost["host"] not in {worker["host"] for worker in back["workers"]}

    waiting = home.submit("--workers", 3, job=(*LONG, *brake.job))
    assert home.job(waiting)["status"] == "waiting"
    cluster.add()
    home.until_job(waiting, "running", step=1, workers=3)

    brake.release()
    for job in (number, waiting):
        assert home.until_job(job, "finished")["weights_sha256"] == calm
    home.do("down")
    assert cluster.free() == 6, "all is given back"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--ray", "auto"), "No cluster is joined by chance"),
        (("--ray", "127.0.0.1:9"), "cannot join the Ray cluster at 127.0.0.1:9: [Errno 111]"),
        (("--ray", "somewhere"), "it has no port"),
        (("--ray", "local", "--hosts", "here=1"), "Leave out one"),
        (("--ray", "local", "--slots", "0"), "at least 1"),
    ],
)
def test_no_cluster_is_joined_like_this(tmp_path, flags, text):
    done = TestHome(tmp_path).cli("up", "--port", 0, *flags)
    assert done.returncode in (1, 2) and text in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_ray_is_imported_by_nobody_who_does_not_ask_for_it():
    code = "import sys, manyhands.cli.main, manyhands.jobs.controller.web.serve; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
