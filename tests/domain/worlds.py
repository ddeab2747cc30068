"""Lists of commands for properties: chosen by Hypothesis, or by a seed for volume.

Everything is scarce on purpose: five prices, four quantities, three clients and thirty order ids
that come again and again, on two instruments of unlike scales, ticks and lots and a third that few
lists register. A small space collides, and collisions (crosses, duplicates, late cancels) are where
bugs live. The lists below are weights too: a value that should be chosen often is repeated, and
values that are refused, and so change nothing, are rare.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    CreateAccount,
    IssueKey,
    LimitOpenOrders,
    MalformedRecord,
    PlaceOrder,
    PlaceShard,
    QuarantinedRecord,
    RegisterInstrument,
    ResumeClient,
    RevokeKey,
    RotateKey,
    SuspendClient,
)
from exchange.domain.engine import State, check_state, decide, evolve
from exchange.domain.events import Event
from exchange.domain.values import KeyAlgorithm, KeyScope, OrderType, Price, Quantity, Side

BTC_USD: Final = RegisterInstrument("BTC-USD", "BTC", "USD", 2, 8, Price(5), Quantity(10))
ETH_JPY: Final = RegisterInstrument("ETH-JPY", "ETH", "JPY", 0, 3, Price(1), Quantity(1))
LATE: Final = RegisterInstrument("LATE-X", "LATE", "X", 12, 0, Price(10), Quantity(5))

Terms = tuple[OrderType, Price | None]
Narrowing = tuple[bool, bool, int | None]  # by instrument, by side, by position

INSTRUMENTS: Final = ["BTC-USD"] * 10 + ["ETH-JPY"] * 4 + ["LATE-X"]
ORDER_IDS: Final = [f"order-{number}" for number in range(30)]
MORE_ORDER_IDS: Final = [f"more-{number}" for number in range(200)]  # room for a deep book
CLIENTS: Final = ["anna", "ben", "cleo"]
SIDES: Final = list(Side)
PRICES: Final = [90, 95, 100, 105, 110]
LIMITS: Final[list[Terms]] = [(OrderType.LIMIT, Price(price)) for price in PRICES]
MARKET: Final[Terms] = (OrderType.MARKET, None)
ODD_TERMS: Final[list[Terms]] = [
    (OrderType.LIMIT, None),
    (OrderType.MARKET, Price(100)),
    (OrderType.LIMIT, Price(93)),
]
TERMS: Final = LIMITS * 10 + [MARKET] * 10 + ODD_TERMS
QUANTITIES: Final = [Quantity(quantity) for quantity in [10, 20, 30, 50] * 10 + [7]]
CANCELLERS: Final = [None, *CLIENTS]
REGISTRATIONS: Final = [BTC_USD, ETH_JPY, LATE]
TIMES_MS: Final = list(range(8))  # in any order: time that runs backwards is the usual case
TAKEN: Final = [False] * 19 + [True]
CYCLES: Final = [1, 2, 2, 3, 4, 5, 6, 8, 13, 21, 34, 55]
ODD_SHAPES: Final = ["register", "malformed", "close", "close", "quarantine", "limit", "shard"]
ACCOUNT_SHAPES: Final = [
    *["account", "suspend", "resume", "resume"],
    *["issue"] * 5,
    *["rotate"] * 2,
    *["revoke"] * 2,
]
SHAPES: Final = [
    *["place"] * 30,
    *["cancel"] * 10,
    *["cancel all"] * 2,
    *ODD_SHAPES,
    *ACCOUNT_SHAPES,
]
OPEN_ORDERS: Final = [4, 10, 30]
SUSPENDED: Final = ["cleo", "dora"]  # one who trades, and one who does not
NARROWINGS: Final[list[Narrowing]] = [
    (False, False, None),
    (True, False, None),
    (False, True, 40),
    (True, True, 400),
]


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What commands about keys name; some lack what the algorithm needs."""

    key_id: str
    new_key_id: str
    algorithm: KeyAlgorithm
    public_key: str | None
    master: int | None
    expires_ms: int | None
    overlap_ms: int


KEY_IDS: Final = [f"{number:032x}" for number in range(24)]
ED25519, HMAC = KeyAlgorithm
PUBLIC_KEY: Final = "5a" * 32
MATERIALS: Final = [
    *[(ED25519, PUBLIC_KEY, None)] * 4,
    *[(HMAC, None, 7)] * 4,
    (ED25519, None, None),
    (HMAC, PUBLIC_KEY, 7),
]
ENDS: Final = [(None, 0), (None, 3), (None, 300), (5, 0), (300, 2), (10_000, 10_000)]
KEY_TERMS: Final = [
    KeyTerms(key_id, KEY_IDS[(number + 5 * overlap_ms + 1) % len(KEY_IDS)], *material, *ends)
    for number, key_id in enumerate(KEY_IDS)
    for material in MATERIALS
    for ends in ENDS
    for overlap_ms in ends[1:]
]
SIGNERS: Final = [None, None, None, "ab" * 16]


@dataclass(frozen=True, slots=True)
class Step:
    """A command, when it came, whether its order's id had been claimed, and who signed it."""

    command: Command
    time_ms: int
    order_id_taken: bool = False
    key_id: str | None = None


OPENING: Final = [Step(BTC_USD, 0), Step(ETH_JPY, 0)]


def make_command(
    shape: str,
    order_id: str,
    client_id: str,
    instrument: str,
    side: Side,
    terms: Terms,
    quantity: Quantity,
    canceller: str | None,
    registration: RegisterInstrument,
    cycle: int,
    narrowing: Narrowing,
    key: KeyTerms,
) -> Command:
    """Use of these what the shape needs: always drawing all lets Hypothesis shrink faster."""
    match shape:
        case "place":
            return PlaceOrder(order_id, client_id, instrument, side, terms[0], terms[1], quantity)
        case "cancel":
            return CancelOrder(order_id, instrument, canceller)
        case "cancel all":
            by_instrument, by_side, up_to = narrowing
            only = instrument if by_instrument else None
            return CancelAllOrders(client_id, only, side if by_side else None, up_to)
        case "register":
            return registration
        case "close":
            return CloseSettlementCycle(cycle)
        case "limit":
            return LimitOpenOrders(OPEN_ORDERS[cycle % len(OPEN_ORDERS)])
        case "shard":
            return PlaceShard(cycle)
        case "quarantine":
            return QuarantinedRecord("00" * 32, 7, 3)
        case "malformed":
            return MalformedRecord("no command", "00" * 32, 7)
        case _:
            return _about_account(shape, canceller, SUSPENDED[cycle % len(SUSPENDED)], key)


def _about_account(shape: str, client_id: str | None, suspended: str, key: KeyTerms) -> Command:
    match shape:
        case "account":
            return CreateAccount(client_id or "dora")
        case "suspend":
            return SuspendClient(suspended)
        case "resume":
            return ResumeClient(suspended)
        case "rotate":
            return RotateKey(key.key_id, key.new_key_id, key.public_key, key.master, key.overlap_ms)
        case "revoke":
            return RevokeKey(key.key_id)
        case _:
            assert shape == "issue", shape
    return IssueKey(
        key.key_id,
        client_id or "emma",  # who never has an account
        key.algorithm,
        key.public_key,
        key.master,
        (KeyScope.READ, KeyScope.TRADE),
        ("10.0.0.0/8",) if key.master else (),
        key.expires_ms,
        "of a test",
    )


commands: Final = st.builds(
    make_command,
    st.sampled_from(SHAPES),
    st.sampled_from(ORDER_IDS),
    st.sampled_from(CLIENTS),
    st.sampled_from(INSTRUMENTS),
    st.sampled_from(SIDES),
    st.sampled_from(TERMS),
    st.sampled_from(QUANTITIES),
    st.sampled_from(CANCELLERS),
    st.sampled_from(REGISTRATIONS),
    st.sampled_from(CYCLES),
    st.sampled_from(NARROWINGS),
    st.sampled_from(KEY_TERMS),
)
steps: Final = st.builds(
    Step,
    commands,
    st.sampled_from(TIMES_MS),
    st.sampled_from(TAKEN),
    st.sampled_from(SIGNERS),
)
step_lists: Final = st.lists(steps, max_size=60).map(lambda drawn: OPENING + drawn)

# The machine may be busy: how long an example takes says nothing. Explaining a failure takes
# minutes for lists of this length, and the shrunk list explains enough.
PROPERTY: Final = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase is not Phase.explain],
)


class Swarm:
    """An endless source of steps, whose taste (which ids, prices, shapes) the seed decides.

    Lists that leave things out reach states that lists of everything hardly do: a deep
    book needs few cancels, a long queue few prices.
    """

    def __init__(self, seed: int) -> None:
        rng = self._rng = Random(seed)
        self._order_ids = ORDER_IDS + MORE_ORDER_IDS if rng.random() < 0.6 else ORDER_IDS
        self._instruments = rng.choice([INSTRUMENTS, ["BTC-USD"], ["BTC-USD", "ETH-JPY"]])
        self._terms = rng.choice([TERMS, LIMITS, LIMITS[1:3], [*LIMITS[1:4], MARKET]])
        self._shapes = rng.choice([SHAPES, ["place"], ["place", "place", "cancel"]])
        self._time_ms = 0

    def __iter__(self) -> Iterator[Step]:
        yield from OPENING
        while True:
            rng = self._rng
            self._time_ms += rng.choice([-1, 0, 0, 1, 2])
            time_ms = max(0, self._time_ms)
            yield Step(self._command(), time_ms, rng.choice(TAKEN), rng.choice(SIGNERS))

    def _command(self) -> Command:
        choose = self._rng.choice
        return make_command(
            choose(self._shapes),
            choose(self._order_ids),
            choose(CLIENTS),
            choose(self._instruments),
            choose(SIDES),
            choose(self._terms),
            choose(QUANTITIES),
            choose(CANCELLERS),
            choose(REGISTRATIONS),
            choose(CYCLES),
            choose(NARROWINGS),
            choose(KEY_TERMS),
        )


def run(given: list[Step]) -> tuple[State, list[Event]]:
    """Return the state and the log that steps lead to, checked after each of them."""
    state = State()
    log: list[Event] = []
    for step in given:
        log += take(state, step)
        check_state(state)
    return state, log


def take(state: State, step: Step) -> list[Event]:
    """Decide and evolve one step."""
    events = decide_step(state, step)
    for event in events:
        evolve(state, event)
    return events


def decide_step(state: State, step: Step) -> list[Event]:
    """Decide one step."""
    return decide(
        state,
        step.command,
        time_ms=step.time_ms,
        order_id_taken=step.order_id_taken,
        key_id=step.key_id,
    )
