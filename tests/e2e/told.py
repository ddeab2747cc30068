"""Answers over HTTP compared with folds of the log that share no code with the exchange.

Amounts are compared as exact fractions.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import httpx

from exchange.ports import StoredEvent
from tests.projections.folds import (
    Row,
    fold_book,
    fold_cycles,
    fold_last_trades,
    fold_minutes,
    fold_obligations,
    fold_positions,
)
from tests.running import INSTRUMENTS

NAMES = tuple(str(instrument["instrument"]) for instrument in INSTRUMENTS)
AVERAGE_DECIMALS = 8  # beyond the price's own, as docs/protocol.md says


@dataclass(frozen=True)
class Told:
    """An exchange's interface, a log, and the sequences that answers are asked at.

    ``asked`` is the parameter that asks for it: ``min_sequence`` of an exchange at rest, or
    ``as_of_sequence`` of one that goes on.
    """

    http: httpx.AsyncClient
    log: list[StoredEvent]
    heads: dict[int, int]
    listings: dict[str, Row]
    asked: str = "min_sequence"

    @property
    def seen(self) -> dict[str, str]:
        return {self.asked: ",".join(f"{s}:{p}" for s, p in self.heads.items())}

    def seen_of(self, instrument: str) -> dict[str, Any]:
        return {self.asked: self.heads[self.listings[instrument]["shard"]]}

    async def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        response = await self.http.get(path, params={**self.seen, **parameters})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json(parse_float=Decimal)
        return answer

    def scale(self, instrument: str, *names: str) -> int:
        return sum(int(self.listings[instrument][f"{name}_scale"]) for name in names)

    def price(self, instrument: str, units: int) -> Fraction:
        return Fraction(units, 10 ** self.scale(instrument, "price"))

    def quantity(self, instrument: str, units: int) -> Fraction:
        return Fraction(units, 10 ** self.scale(instrument, "quantity"))

    def money(self, instrument: str, units: int) -> Fraction:
        return Fraction(units, 10 ** self.scale(instrument, "price", "quantity"))

    def average(self, instrument: str, sum_units: int, count: int) -> Fraction:
        """Return a quotient in units of price as it is told: rounded half to even."""
        scale = self.scale(instrument, "price")
        return round(Fraction(sum_units, count * 10**scale), scale + AVERAGE_DECIMALS)


async def assert_answers(told: Told) -> None:
    """Compare every answer; each waits for what the log has."""
    for name in NAMES:
        for interval in (1, 5):
            await assert_analytics(told, name, interval)
        await assert_ticker(told, name)
    await assert_positions(told)
    await assert_settlement(told)


async def assert_analytics(told: Told, name: str, interval: int) -> None:
    buckets: dict[int, list[Row]] = defaultdict(list)
    for (instrument, minute), row in sorted(fold_minutes(told.log).items()):
        if instrument == name:
            buckets[minute // interval * interval].append(row)
    answer = await told.get(
        "/market/analytics", instrument=name, interval=interval, **told.seen_of(name)
    )

    assert [one["time_bucket"] for one in answer["aggregates"]] == [
        datetime.fromtimestamp(60 * minute, UTC).strftime("%Y-%m-%dT%H:%M:00.000Z")
        for minute in buckets
    ]
    for one, rows in zip(answer["aggregates"], buckets.values(), strict=True):
        assert {k: exact(v) for k, v in one.items() if k != "time_bucket"} == aggregate(
            told, name, rows
        )
    rows = [row for bucket in buckets.values() for row in bucket]
    assert sum(row["trade_count"] for row in rows) > 0
    assert exact(answer["overall_vwap"]) == vwap(told, name, rows)


def aggregate(told: Told, name: str, rows: list[Row]) -> dict[str, Fraction]:
    total = sums(rows)
    return {
        "trade_count": Fraction(total["trade_count"]),
        "total_quantity": told.quantity(name, total["quantity"]),
        "total_volume": told.money(name, total["volume"]),
        "avg_price": told.average(name, total["price_sum"], total["trade_count"]),
        "vwap": vwap(told, name, rows),
        "min_price": told.price(name, min(row["low"] for row in rows)),
        "max_price": told.price(name, max(row["high"] for row in rows)),
        "open_price": told.price(name, rows[0]["open"]),
        "close_price": told.price(name, rows[-1]["close"]),
    }


def vwap(told: Told, name: str, rows: list[Row]) -> Fraction:
    total = sums(rows)
    return told.average(name, total["volume"], total["quantity"])


def sums(rows: Iterable[Row]) -> dict[str, int]:
    names = ("trade_count", "quantity", "volume", "price_sum")
    return {name: sum(row[name] for row in rows) for name in names}


async def assert_ticker(told: Told, name: str) -> None:
    last = fold_last_trades(told.log)[name]
    book = fold_book(told.log).get(name, {"bids": [], "asks": []})
    minutes = fold_minutes(told.log).items()
    rows = [row for (instrument, _), row in sorted(minutes) if instrument == name]
    answer = await told.get("/market/ticker", instrument=name, **told.seen_of(name))

    assert exact(answer["last_price"]) == told.price(name, last["price"])
    assert exact(answer["last_quantity"]) == told.quantity(name, last["quantity"])
    assert answer["last_side"] == last["taker_side"]
    for side, levels in (("bid", book["bids"]), ("ask", book["asks"])):
        best = (answer[f"best_{side}"], answer[f"best_{side}_quantity"])
        if levels:
            price, quantity = levels[0]
            expected = (told.price(name, price), told.quantity(name, quantity))
            assert (exact(best[0]), exact(best[1])) == expected
        else:
            assert best == (None, None)
    day = {key: exact(value) for key, value in answer["day"].items()}
    assert day["trade_count"] == sums(rows)["trade_count"]
    assert day["quantity"] == told.quantity(name, sums(rows)["quantity"])
    assert day["volume"] == told.money(name, sums(rows)["volume"])
    assert day["vwap"] == vwap(told, name, rows)
    assert day["open"] == told.price(name, rows[0]["open"])
    assert day["close"] == told.price(name, rows[-1]["close"])
    assert day["high"] == told.price(name, max(row["high"] for row in rows))
    assert day["low"] == told.price(name, min(row["low"] for row in rows))


async def assert_positions(told: Told) -> None:
    folded = fold_positions(told.log)
    net: dict[str, Fraction] = defaultdict(Fraction)
    for client in sorted({client for client, _ in folded}):
        for name, quantity in (await assert_positions_of(told, client, folded)).items():
            net[name] += quantity
    assert net.keys() >= set(NAMES)
    assert not any(net.values()), net


async def assert_positions_of(
    told: Told, client: str, folded: dict[tuple[str, str], Row]
) -> dict[str, Fraction]:
    """Compare a client's positions with the fold's; return the net quantities."""
    answer = await told.get(f"/market/positions/{client}")
    found = {one["instrument"]: one for one in answer["positions"]}
    assert found.keys() == {name for owner, name in folded if owner == client}
    for name, one in found.items():
        assert_position(told, one, folded[client, name])
    return {name: exact(one["net_quantity"]) for name, one in found.items()}


def assert_position(told: Told, one: dict[str, Any], row: Row) -> None:
    name = row["instrument"]
    assert exact(one["net_quantity"]) == told.quantity(name, row["net_quantity"])
    assert exact(one["total_cost"]) == told.money(name, row["total_cost"])
    assert exact(one["realised_pnl"]) == told.money(name, row["realised_pnl"])
    if row["net_quantity"]:
        average = told.average(name, row["total_cost"], row["net_quantity"])
        assert exact(one["avg_price"]) == average
    else:
        assert one["avg_price"] is None
    last = fold_last_trades(told.log)[name]["price"]
    worth = row["net_quantity"] * last - row["total_cost"]
    assert exact(one["unrealised_pnl"]) == told.money(name, worth)


async def assert_settlement(told: Told) -> None:
    owed = fold_obligations(told.log)
    counts: dict[int, int] = defaultdict(int)
    for (_, cycle), row in fold_cycles(told.log).items():
        counts[cycle] += row["trade_count"]
    listed = (await told.get("/settlement/cycles", limit=100))["cycles"]
    found = {one["cycle_id"]: one["trade_count"] for one in listed}
    assert {cycle: count for cycle, count in found.items() if count} == {
        cycle: count for cycle, count in counts.items() if count
    }
    for cycle in found:
        await assert_cycle(told, cycle, owed)


async def assert_cycle(told: Told, cycle: int, every: dict[tuple[int, str, str], Row]) -> None:
    answer = await told.get(f"/settlement/cycles/{cycle}", limit=1000)
    assert answer["next_cursor"] is None
    clients = answer["clients"]
    owed = {(client, name): row for (of, client, name), row in every.items() if of == cycle}
    quantities: dict[str, Fraction] = defaultdict(Fraction)
    currencies: dict[str, Fraction] = defaultdict(Fraction)
    assert [one["client_id"] for one in clients] == sorted({client for client, _ in owed})
    for client in clients:
        expected: dict[str, Fraction] = defaultdict(Fraction)
        rows = {name: row for (owner, name), row in owed.items() if owner == client["client_id"]}
        assert [one["instrument"] for one in client["obligations"]] == sorted(rows)
        for one in client["obligations"]:
            name = one["instrument"]
            row, listing = rows[name], told.listings[name]
            assert exact(one["net_quantity"]) == told.quantity(name, row["net_quantity"])
            assert exact(one["net_amount"]) == told.money(name, row["net_amount"])
            quantities[name] += exact(one["net_quantity"])
            expected[listing["base"]] += told.quantity(name, row["net_quantity"])
            expected[listing["quote"]] += told.money(name, row["net_amount"])
        netted = {one["currency"]: exact(one["net_amount"]) for one in client["currencies"]}
        assert {k: v for k, v in netted.items() if v} == {k: v for k, v in expected.items() if v}
        for currency, amount in netted.items():
            currencies[currency] += amount
    assert not any(quantities.values()), quantities
    assert not any(currencies.values()), currencies


def exact(amount: Decimal | int) -> Fraction:
    return Fraction(amount)
