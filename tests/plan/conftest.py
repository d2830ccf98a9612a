import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "torch"))

from torch_gang import Gang, Server


@pytest.fixture(scope="session")
def torch_pair():
    """Two processes with torch's own gloo, to see what torch does by itself."""
    import silent_checks

    server = Server()
    pair = Gang(server, 2, init=False)
    pair.run(silent_checks.begin)
    yield pair
    pair.close()
    server.close()
