"""PostgreSQL's place and user when root starts it, and what the server was given."""

from pathlib import Path

import asyncpg
import pytest

from exchange.stack.postgres import is_reachable
from exchange.stack.process import Account
from tests.conftest import Services

pytestmark = pytest.mark.anyio

NOBODY = Account(65534, 65534)


def test_a_directory_below_a_closed_one_is_out_of_reach(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    for place in tmp_path.parents:
        if not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o001)
    tmp_path.chmod(0o711)

    assert is_reachable(inner, NOBODY)
    inner.parent.chmod(0o700)
    assert not is_reachable(inner, NOBODY)
    assert is_reachable(inner.parent.parent, NOBODY)


async def test_the_server_keeps_what_it_acknowledged_and_has_no_open_superuser(
    services: Services,
) -> None:
    connection = await asyncpg.connect(services.database_url)
    names = ("fsync", "synchronous_commit", "full_page_writes", "is_superuser", "listen_addresses")
    shown = {name: await connection.fetchval(f"show {name}") for name in names}
    await connection.close()

    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "is_superuser": "off",
        "listen_addresses": "127.0.0.1",
    }
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(services.database_url.replace("exchange@", "postgres@"))
