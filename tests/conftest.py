import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# What manyhands does with threads it says itself; all else has one, as there are more processes than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The suite says the same every time, on a machine that stalls too: the same examples, and none that is too slow.
# To look for new ones: pytest --hypothesis-profile=explore
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("suite"), derandomize=False)
settings.load_profile("suite")


# Children inherit what a signal does. A shell has what it starts in the background (`make test &`) ignore Ctrl-C: those
# that a test interrupts would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def the_same_random_numbers():
    """Whatever ran before; modules that are not loaded have given none."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def no_run_is_left_behind():
    """Whatever a test started in the background ends with it."""
    from support import Run

    yield
    while Run.started:
        Run.started.pop().close()
