"""A place for a controller, which ends with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from home import TestHome


@pytest.fixture
def home(tmp_path: Path) -> Iterator[TestHome]:
    home = TestHome(tmp_path / "home")
    yield home
    home.close()
