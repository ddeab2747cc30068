"""What happens at an exchange, for a person who watches: told when the connection is lost."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from exchange.client import AsyncClient, Connected, Following, Interrupted, Update


@asynccontextmanager
async def watching(
    base_url: str, following: Following, tell: Callable[[str], None]
) -> AsyncIterator[AsyncIterator[Update]]:
    """Follow an instrument.

    Args:
        base_url: Of a gateway.
        following: What is followed, from where it ended.
        tell: Gets one line when the connection is lost, and an empty one when it is back.

    Raises:
        Refused: The exchange does not take the subscription.
    """
    async with (
        AsyncClient(base_url) as client,
        client.follow(following) as updates,
        aclosing(_telling(base_url, updates, tell)) as told,
    ):
        yield told


async def _telling(
    base_url: str, updates: AsyncIterator[Update], tell: Callable[[str], None]
) -> AsyncGenerator[Update]:
    async for update in updates:
        match update:
            case Connected():
                tell("")
            case Interrupted():
                tell(f"connecting to {base_url} again ({update.reason})")
            case _:
                yield update
