"""A connection to the log for one question."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from starlette.requests import Request

from exchange.gateway.http.problems import Code, Problem
from exchange.tools.projections.stores import POSTGRES_ERRORS, failure
from exchange.tools.terminal import ToolError, connect


@asynccontextmanager
async def log_for(request: Request) -> AsyncIterator[asyncpg.Connection]:
    """Lend a connection.

    Raises:
        Problem: 503, the log cannot be read.
    """
    try:
        connection = await connect(request.app.state.settings.database_url)
    except ToolError as error:
        raise Problem(Code.READ_UNAVAILABLE, str(error)) from error
    try:
        yield connection
    except (*POSTGRES_ERRORS, OSError) as error:
        raise Problem(Code.READ_UNAVAILABLE, f"PostgreSQL: {failure(error)}") from error
    finally:
        connection.terminate()
