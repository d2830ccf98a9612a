import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_run_is_left_behind():
    """Whatever a test started in the background ends with it."""
    from support import Run

    yield
    while Run.started:
        Run.started.pop().close()
