from collections.abc import Iterator

import pytest

from tests.fuzz.doors import HttpDoorAddress, http_door


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpDoorAddress]:
    with http_door(tmp_path_factory.mktemp("intake")) as address:
        yield address
