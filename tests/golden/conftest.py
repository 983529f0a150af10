from pathlib import Path

import pytest

from tests.golden.commands import unpack


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old store as it was left."""
    folder = tmp_path_factory.mktemp("old")
    unpack(folder)
    return folder
