import pytest

from exchange.transport.messages import Outcome, OutcomeMessage, encode_outcomes
from tests.contracts.conftest import OutcomeWorld

pytestmark = pytest.mark.anyio


def message(waiter: int) -> OutcomeMessage:
    return OutcomeMessage(shard=0, books={}, outcomes=[Outcome(waiter, offset=waiter)])


async def test_a_listening_gateway_gets_its_messages_in_order(outcomes: OutcomeWorld) -> None:
    mine = await outcomes.listen("mine")

    for waiter in range(3):
        await outcomes.channel.publish("mine", encode_outcomes(message(waiter)))

    assert [await mine.get() for _ in range(3)] == [message(0), message(1), message(2)]


async def test_a_gateway_hears_nothing_of_another(outcomes: OutcomeWorld) -> None:
    mine, other = await outcomes.listen("mine"), await outcomes.listen("other")

    await outcomes.channel.publish("other", encode_outcomes(message(1)))
    await outcomes.channel.publish("mine", encode_outcomes(message(2)))

    assert await mine.get() == message(2)
    assert await other.get() == message(1)
    assert mine.empty()


async def test_nobody_listening_is_no_error(outcomes: OutcomeWorld) -> None:
    await outcomes.channel.publish("gone", encode_outcomes(message(1)))
