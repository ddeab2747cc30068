"""The read side's fixtures, and the commands of operators on them."""

from collections.abc import Callable, Coroutine

import pytest

from tests.e2e.operator_commands import OPERATOR, WIDTH, Ended, run_with
from tests.projections.conftest import (  # noqa: F401  fixtures
    connect,
    connection,
    engine,
    projector,
    redis,
)

NOBODY = "http://127.0.0.1:1"

Command = Callable[..., Coroutine[None, None, Ended]]


@pytest.fixture
def command(database_url: str, redis_url: str) -> Command:
    """Run a command on this test's own stores; no gateway answers it."""
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "BASE_URL": NOBODY,
        "OPERATOR": OPERATOR,
        "COLUMNS": str(WIDTH),
    }

    def run(*arguments: str, **changed: str) -> Coroutine[None, None, Ended]:
        return run_with({**environment, **changed}, *arguments)

    return run
