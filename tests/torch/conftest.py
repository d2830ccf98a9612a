import pytest
from torch_gang import Server


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=[1, 2, 3, 4], ids=lambda world: f"world{world}")
def gang(server, request):
    """Processes with a group, at every size."""
    return server.gang(request.param)


@pytest.fixture
def pair(server):
    return server.gang(2)


@pytest.fixture
def four(server):
    return server.gang(4)
