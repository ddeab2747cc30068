"""What the operators' desk makes of what it is told: pure functions, called in the browser.

No exchange runs: the browser gets the page's own files, and nothing else.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route

from exchange.pages.site import OPERATOR, Built, built

ORIGIN = "http://desk.test"


@pytest.fixture(scope="module")
def modules(browser: Browser) -> Iterator[Page]:
    """An empty page of the desk's origin."""
    whole = built(OPERATOR)
    assert isinstance(whole, Built)

    def serve(route: Route) -> None:
        file = whole.files.get(urlsplit(route.request.url).path.removeprefix("/"))
        if file is None:
            route.fulfill(body="<!doctype html>", content_type="text/html")
        else:
            route.fulfill(body=file.body, content_type=file.media_type)

    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/*", serve)
        page.goto(f"{ORIGIN}/")
        yield page


def call(page: Page, name: str, body: str, *arguments: Any, part: str = "state") -> Any:
    """Return what a function over a module (``m``) and arguments (``a``) returns."""
    whole = built(OPERATOR)
    assert isinstance(whole, Built)
    path = next(f"/{file}" for file in whole.files if file.endswith(f"operator/{part}/{name}.js"))
    script = f"async ([path, a]) => {{ const m = await import(path); {body} }}"
    return page.evaluate(script, [path, list(arguments)])


def generation(number: int = 1, **more: Any) -> dict[str, Any]:
    known = {
        "projection": "book",
        "generation": number,
        "state": "live",
        "live": True,
        "positions": {"0": 7},
        "failure": None,
        "failed_at": None,
        "verified": None,
        "replaces": None,
        "rate": None,
        "left_s": None,
        "falls_behind": False,
        "build": None,
    }
    return {**known, **more}


def operation(action: str, by: str, at: str = "2026-01-31T12:00:00Z") -> dict[str, Any]:
    made = {"action": action, "operator": by, "at": at, "projection": "book"}
    return {**made, "to_generation": 1}


FAILED = generation(state="failed", failure="shard 0: planted", failed_at="0:8")
READERS = {"book": "Queries read it as of now."}


def failures(page: Page, *operations: dict[str, Any], **more: Any) -> Any:
    seen = {"generations": [FAILED], "operations": operations, "readers": READERS, **more}
    return call(page, "failures", "return m.failuresOf(a[0])", seen)


def test_a_failure_says_where_since_when_and_what_readers_have(modules: Page) -> None:
    (found,) = failures(modules, operation("failed", "projector"), allows_changes=True)

    assert (found["at"], found["failure"], found["tried"]) == ("0:8", "shard 0: planted", "")
    assert found["since"] == "2026-01-31T12:00:00Z"
    assert found["readers"] == "It is the live one and stands still. Queries read it as of now."
    assert [one["action"] for one in found["actions"]] == ["retry", "skip"]
    assert found["actions"][1]["body"] == {"expect_live": 1, "at": "0:8"}


DRAWN = """
    Object.defineProperty(document, "visibilityState", { value: a[1], configurable: true });
    const root = document.createElement("div");
    m.mount(root, { act() {} })({ seen: a[0] });
    delete document.visibilityState;
    return root.querySelectorAll("article").length;
"""


def test_the_event_that_stopped_a_model_is_not_asked_for_while_nobody_looks(modules: Page) -> None:
    seen = {"generations": [FAILED], "operations": [], "readers": READERS}
    asked: list[str] = []

    def listen(request: Request) -> None:
        if "/events" in request.url:
            asked.append(request.url)

    modules.on("request", listen)
    assert call(modules, "failures", DRAWN, seen, "hidden", part="views") == 1
    assert asked == []
    with modules.expect_request("**/events*"):
        call(modules, "failures", DRAWN, seen, "visible", part="views")
    modules.remove_listener("request", listen)


def test_a_retry_that_stopped_again_is_told(modules: Page) -> None:
    again = [operation("failed", "projector"), operation("retry", "ada", "2026-01-31T11:59:01Z")]
    (found,) = failures(modules, *again, operation("failed", "projector"))

    assert found["tried"] == "ada tried it again at 11:59:01Z, and it stopped once more."
    assert found["actions"] == []  # of a desk that only shows


def test_a_failed_build_has_no_readers_and_without_an_event_nothing_is_skipped(
    modules: Page,
) -> None:
    made = generation(2, state="failed", live=False, failure="2 rows differ")
    seen = {"generations": [generation(), made], "readers": READERS, "allows_changes": True}
    (found,) = call(modules, "failures", "return m.failuresOf(a[0])", seen)

    assert found["readers"] == "No query reads it: generation 1 is live, and goes on."
    assert [one["action"] for one in found["actions"]] == ["retry"]
    assert found["actions"][0]["body"] == {"expect_live": 1, "generation": 2}


ACTIONS = [
    (generation(), [], ["rebuild", "verify", "pause"]),
    (generation(state="paused"), [], ["rebuild", "verify", "resume"]),
    (FAILED, [], ["rebuild", "retry", "skip"]),
    (
        generation(2, live=False, state="catching-up"),
        [generation()],
        ["verify", "pause", "retire"],
    ),
    (
        generation(2, live=False, state="catching-up", verified="0:9"),
        [generation()],
        ["verify", "switch", "pause", "retire"],
    ),
    (
        generation(2, live=False, state="kept"),
        [generation()],
        ["verify", "rollback", "pause", "retire"],
    ),
    (generation(2, live=False, state="building"), [generation()], ["pause", "retire"]),
    (generation(), [generation(2, live=False, state="building")], ["verify", "pause"]),
]


@pytest.mark.parametrize(("one", "others", "expected"), ACTIONS)
def test_what_can_be_done_depends_on_the_state(
    modules: Page, one: dict[str, Any], others: list[dict[str, Any]], expected: list[str]
) -> None:
    found = call(modules, "actions", "return m.actionsOn(a[0], a[1])", one, [one, *others])

    assert [action["action"] for action in found] == expected
    assert {action["body"]["expect_live"] for action in found} == {1}
    long = {action["action"] for action in found if action.get("isLong")}
    assert long == {"rebuild", "verify"} & set(expected)


def test_a_switch_says_from_where_to_where_and_what_was_compared(modules: Page) -> None:
    places = {"0": 9, "1": 3}
    made = generation(2, live=False, state="catching-up", positions=places, verified="0:9, 1:3")
    found = call(modules, "actions", "return m.actionsOn(a[0], a[1])", made, [made, generation()])

    assert next(one["will"] for one in found if one["action"] == "switch") == (
        "Queries go from generation 1 (at position 0:7, shard:event)"
        " to generation 2 (at position 0:9, 1:3, shard:event),"
        " verified at 0:9, 1:3. The former one is kept, so that you can go back."
    )


def flow(page: Page, one: dict[str, Any]) -> list[str]:
    steps = call(page, "flow", "return m.flowOf(a[0])", one)
    return [f"{step['is']} {step['name']}: {step['text']}".removesuffix(": ") for step in steps]


def test_a_rebuild_is_told_as_its_flow(modules: Page) -> None:
    build = {"step": "reading", "done": 250, "wanted": 1000, "silent_s": 0.2}
    making = {"live": False, "state": "building", "replaces": 1, "rate": 1200.4, "left_s": 1.2}

    assert flow(modules, generation()) == []
    assert flow(modules, generation(2, **making, build=build)) == [
        "now build: reading, 25 %, 1,200 events/s, 2 s left",
        "later catch up",
        "later verify",
        "later switch",
        "later keep the former",
    ]
    silent = {**build, "step": "verifying", "silent_s": 12.4}
    silent["seconds"] = {"reading": 3.14, "indexing": 1, "catching-up": 0.5}
    assert flow(modules, generation(2, **making, build=silent))[:3] == [
        "done build: 4.1 s",
        "done catch up: 0.5 s",
        "now verify: verifying, 25 %, 1,200 events/s, 2 s left, nothing heard of it for 12 s",
    ]
    waits = {"live": False, "state": "catching-up", "verified": "0:9"}
    assert flow(modules, generation(2, **waits))[3] == "now switch: verified at 0:9; waits for you"


def test_a_rebuild_says_who_wanted_it_and_why(modules: Page) -> None:
    wanted = "return m.wantedBy(a[0], a[1])"
    begun = {**operation("rebuild", "ada"), "reason": "new rules"}

    assert call(modules, "flow", wanted, generation(), [begun]) == (
        "Begun by ada at 12:00:00Z: new rules."
    )
    assert call(modules, "flow", wanted, generation(begun_by="bob"), []) == "Begun by bob."


def test_a_generation_that_stands_while_the_log_grows_is_stuck(modules: Page) -> None:
    def rates(positions: list[int | None], heads: list[int], lag: int) -> Any:
        line = {"position": positions, "lag": [lag] * len(positions)}
        times = [1_000 * at for at in range(len(positions))]
        trends = {"at_ms": times, "head": heads, "generations": {"book 1": line}}
        return call(modules, "trends", "return m.rates(a[0], 'book 1')", trends)

    grows = list(range(10, 18))
    assert rates([10] * 8, grows, 7) == {"now": 0, "mean": 0, "isStill": True}
    assert rates([10] * 8, [10] * 8, 0)["isStill"] is False
    assert rates([None, 10, None, 12, 13, 14, 15, 17], grows, 0) == {
        "now": 2,
        "mean": 7 / 6,
        "isStill": False,
    }
    assert rates([10], [10], 0) == {"now": None, "mean": None, "isStill": False}


def test_positions_are_read_told_and_moved_within_their_log(modules: Page) -> None:
    def of(body: str, *arguments: Any) -> Any:
        return call(modules, "places", body, *arguments)

    read = "return [...m.readPlaces(a[0])]"
    assert of(read, " 1:45, 0:123 ") == [[1, 45], [0, 123]]
    assert of(read, "7") == [[0, 7]]
    assert of("return m.told(m.readPlaces(a[0]))", "1:45,0:123") == "0:123,1:45"
    moved = "return m.told(m.moved(m.readPlaces(a[0]), a[1], a[2], a[3]))"
    assert of(moved, "0:5,1:9", 1, 12, 10) == "0:5,1:10"
    assert of(moved, "0:5", 0, -3, 10) == "0:0"
    newest = "return m.told(m.newestOf(m.readPlaces(a[0]), a[1]))"
    assert of(newest, "0:90,1:4", 50) == "0:65,1:0"
    shard = "return m.shardOf(a[0], a[1], new Map([[0, 5], [1, 9]]))"
    assert [of(shard, *it) for it in (("1", ""), ("", "1:4"), ("", "1:4,0:2"), ("7", ""))] == [
        1,
        1,
        0,
        0,
    ]
    assert of(shard, "", "2026-01-31T12:00") == 0
    for wrong in ("", "x", "0:", "0:1:2", "0:-1", "0:1,"):
        told = of("try { m.readPlaces(a[0]); return '' } catch (e) { return e.message }", wrong)
        assert "is no position such as 0:123, and no time such as 08:05" in told, wrong
    assert of("return a.map(m.isTime)", "2026-01-31T12:00", "0:20260131", "2026") == [
        True,
        False,
        False,
    ]


def test_a_clock_time_is_one_of_today_unless_it_can_be_a_position(modules: Page) -> None:
    body = "return a[0].map((text) => m.momentOf(text, new Map([[0, 5], [10, 9]]), a[1]))"
    now_ms = 1_769_860_800_000  # 2026-01-31T12:00:00Z

    typed = ["08:05", " 23:59:01Z", "10:45", "10:45:00", "11:45", "8:05", "24:00", "0:123", ""]
    assert call(modules, "places", body, typed, now_ms) == [
        "2026-01-31T08:05:00Z",
        "2026-01-31T23:59:01Z",
        "10:45",
        "2026-01-31T10:45:00Z",
        "2026-01-31T11:45:00Z",
        "8:05",
        "24:00",
        "0:123",
        "",
    ]
    body = "try { m.placesIn(a[0], new Map([[0, 5]])) } catch (e) { return e.message }"
    assert call(modules, "places", body, "8:05") == (
        "there is no shard 8: give a position (shard:event) such as 0:123,"
        " or a time such as 08:05 (UTC, today) or 2026-01-31T08:05Z"
    )


def test_levels_that_one_answer_is_too_short_to_have_do_not_differ(modules: Page) -> None:
    first = [{"price": price} for price in range(200, 100, -1)]
    better = [{"price": 201}, *first[:-1]]
    body = "return m.comparable(a[0], a[1], a[2]).map((all) => all.map((one) => one.price))"

    assert call(modules, "books", body, "bids", first, better) == [
        list(range(200, 101, -1)),
        list(range(201, 101, -1)),
    ]
    assert call(modules, "books", body, "bids", first[:5], better[:5]) == [
        list(range(200, 195, -1)),
        list(range(201, 196, -1)),
    ]
    asks = [{"price": price} for price in range(100)]
    assert call(modules, "books", body, "asks", asks, asks[1:])[0] == list(range(100))


def test_what_differs_between_two_books_is_told_as_text(modules: Page) -> None:
    before, after = ([["1", "5"], ["2", "6"]], [["2", "6.0"], ["3", "7"]])
    body = "return m.differences(a[0], a[1], (row) => row[0], (row) => row[1])"

    assert call(modules, "books", body, before, after) == [
        {"key": "1", "before": "5", "after": "–"},
        {"key": "2", "before": "6", "after": "6.0"},
        {"key": "3", "before": "–", "after": "7"},
    ]


def test_the_columns_of_a_comparison_name_its_moments_whichever_is_the_earlier(
    modules: Page,
) -> None:
    columns = call(modules, "books", "return m.columnsOf(a[0], a[1])", "0:13", "0:5")

    assert columns == ["what", "at 0:13", "at 0:5"]


def test_the_other_side_of_a_trade_is_told(modules: Page) -> None:
    trade = {"type": "TradeExecuted", "maker_order_id": "a", "taker_order_id": "b"}
    trade |= {"maker_client_id": "anna", "taker_client_id": "ben"}
    other = "return m.otherOf(a[0], a[1])"

    assert call(modules, "life", other, trade, "a") == {
        "role": "taker",
        "client": "ben",
        "order": "b",
    }
    assert call(modules, "life", other, trade, "b")["client"] == "anna"
    assert call(modules, "life", other, trade, "c") is None
    assert call(modules, "life", other, {"type": "OrderRested", "order_id": "a"}, "a") is None


def test_a_refusal_names_the_field_as_the_page_does_and_what_there_is(modules: Page) -> None:
    labels = {"after": "After positions, such as 0:123", "client_id": "Client (Anna is not anna)"}
    told = "return m.inWords(a[0], a[1])"

    assert call(modules, "refusals", told, "after: shard 0 ends at 7", labels) == (
        "After positions: shard 0 ends at 7"
    )
    assert (
        call(modules, "refusals", told, "client_id: is too long", labels) == "Client: is too long"
    )
    assert call(modules, "refusals", told, "other: no", labels) == "other: no"
    without = "Nobody registered eth-usd; GET /instruments lists what can be traded."
    there_are = "return m.withInstruments(a[0], a[1])"
    assert call(modules, "refusals", there_are, without, ["BTC-USD", "ETH-USD"]) == (
        "Nobody registered eth-usd; there are: BTC-USD, ETH-USD."
    )
    assert call(modules, "refusals", there_are, without, []) == without


def test_a_take_over_is_told_before_it_decided_anything(modules: Page) -> None:
    first = {"shard": 0, "epoch": 1, "position": 2, "at": "2026-01-31T12:00:00Z"}
    found = "return m.takeOversOf(a[0], a[1])"
    silent = {"shard": 0, "epoch": 2, "position": None, "at": None}

    assert call(modules, "takeovers", found, [{"shard": 0, "epoch": 2}], [first]) == [silent, first]
    assert call(modules, "takeovers", found, [{"shard": 0, "epoch": 1}], [first]) == [first]
    assert call(modules, "takeovers", found, [{"shard": 0, "epoch": 0}], []) == []


def test_a_question_that_was_refused_for_what_it_asks_is_not_asked_again(modules: Page) -> None:
    told = "return a[0].map((status) => m.mayComeLater(status && { problem: { status } }))"

    assert call(modules, "refusals", told, ["422", 404, 429, 503, None]) == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_size_that_is_not_known_is_not_told_as_nothing(modules: Page) -> None:
    sizes = [None, 0, 300, 999_400, 1_250_000]

    told = call(modules, "sizes", "return a[0].map(m.sized)", sizes)
    assert told == ["not measured", "nothing yet", "300 B", "999 kB", "1.3 MB"]


def test_what_is_not_healthy_has_what_to_do_beside_it(modules: Page) -> None:
    shard = {"shard": 0, "matcher": "unhealthy", "undecided": 4, "publishing": "unknown"}
    seen = {
        "status": "unhealthy",
        "checks": {"kafka": "healthy", "redis": "unhealthy"},
        "projections": [{"projection": "book", "state": "stuck"}],
        "shards": [shard, {**shard, "shard": 1, "undecided": -1, "publishing": "stopped"}],
    }
    rows = call(modules, "advice", "return m.healthRows(a[0])", seen)

    assert [(row["key"], row["is"]) for row in rows] == [
        ("check kafka", "healthy"),
        ("check redis", "unhealthy"),
        ("model book", "stuck"),
        ("matcher 0", "unhealthy"),
        ("matcher 1", "unhealthy"),
        ("publishing 1", "stopped"),
    ]
    assert [bool(row["todo"]) for row in rows] == [False, True, True, True, True, True]
    assert "KafkaLostCommands" in rows[4]["todo"]
    assert [row["see"] for row in rows] == ["", "", "models", "shards", "shards", "shards"]
    seen = {"status": "unhealthy", "projections": [{"projection": "book", "state": "failed"}]}
    (failed,) = call(modules, "advice", "return m.healthRows(a[0])", seen)
    assert failed["see"] == "failures"
    (unseen,) = call(modules, "advice", "return m.healthRows(a[0])", {"generations": []})
    assert (unseen["name"], unseen["is"]) == ("gateway", "away")


def event(shard: int, position: int) -> dict[str, Any]:
    return {"shard": shard, "position": position, "chain": f"after {shard}:{position}"}


def test_a_page_of_events_is_compared_in_as_few_parts_as_may_be(modules: Page) -> None:
    events = [event(0, 5), event(1, 9), event(0, 6), event(0, 1_004), event(0, 1_005)]
    spans = call(modules, "chain", "return m.spansOf(a[0])", events)

    assert [(one["shard"], one["after"], one["upTo"]) for one in spans] == [
        (0, 4, 1_004),
        (1, 8, 9),
        (0, 1_004, 1_005),
    ]
    assert spans[0]["places"] == ["0:5", "0:6", "0:1004"]
    told = call(modules, "chain", "return m.toldOf(a[0])", spans[:2])
    assert told == "Chain verified: as the matcher wrote it, 0:5 to 0:1004, 1:9 to 1:9."


def test_a_chain_is_broken_if_the_desk_says_so_or_has_another_one(modules: Page) -> None:
    span = {"shard": 0, "after": 4, "upTo": 6, "chain": "ab", "places": []}
    wrong = "return m.wrongOf(a[0], a[1])"

    assert call(modules, "chain", wrong, span, {"chain": "ab", "failure": None}) == ""
    failed = {"chain": "ab", "failure": "The batch that ends at 0:8 is not as it was written."}
    assert call(modules, "chain", wrong, span, failed) == failed["failure"]
    assert "up to 0:6" in call(modules, "chain", wrong, span, {"chain": "cd", "failure": None})


def told_of(page: Page, *told: tuple[Any, str, int], at_ms: int) -> Any:
    """Fold what came, each with why none did and when, and return what the page says then."""
    body = (
        "let seen = m.NOTHING; for (const [told, why, ms] of a[0])"
        " seen = m.fold(seen, told === 'same' ? undefined : told, why, ms);"
        " return [m.lineOf(seen, a[1]), seen.state]"
    )
    return call(page, "seen", body, [list(one) for one in told], at_ms)


WHOLE = {"status": "healthy", "generations": [1], "logs": [2], "problems": []}


def test_what_is_shown_is_live_until_nothing_comes(modules: Page) -> None:
    first = (WHOLE, "", 1_000)

    assert told_of(modules, at_ms=0)[0] == {
        "isLive": False,
        "text": "Nothing is known yet: it was not asked yet.",
    }
    assert told_of(modules, first, at_ms=2_000)[0] == {
        "isLive": True,
        "text": "live; the exchange is healthy",
    }
    assert told_of(modules, first, at_ms=9_000)[0] == {
        "isLive": False,
        "text": "STALE: figures are of 8 s ago. Why: nothing was heard since",
    }
    assert told_of(modules, first, ("same", "", 8_000), at_ms=9_000)[0]["isLive"] is True
    away = (None, "the desk does not answer", 3_000)
    assert told_of(modules, first, away, at_ms=3_000)[0] == {
        "isLive": False,
        "text": "STALE: figures are of 2 s ago. Why: the desk does not answer",
    }
    assert told_of(modules, first, away, ("same", "", 4_000), at_ms=4_000)[0]["isLive"] is True


def test_figures_of_stores_that_are_away_stay_and_are_called_stale(modules: Page) -> None:
    without = {"status": "degraded", "problems": ["PostgreSQL does not answer."]}
    line, state = told_of(
        modules, (WHOLE, "", 1_000), (without, "", 5_000), ("same", "", 8_000), at_ms=8_000
    )

    assert line == {
        "isLive": False,
        "text": "STALE: figures are of 7 s ago. Why: PostgreSQL does not answer.",
    }
    assert (state["generations"], state["status"]) == ([1], "degraded")
    back = told_of(modules, (without, "", 1_000), (WHOLE, "", 2_000), at_ms=2_000)
    assert back[0]["isLive"] is True


def test_without_a_gateway_the_page_is_live_and_says_what_is_not_known(modules: Page) -> None:
    alone = {"generations": [1], "problems": ["No exchange answers."]}
    line, state = told_of(modules, (WHOLE, "", 1_000), (alone, "", 2_000), at_ms=2_000)

    assert line["text"] == "live, but no gateway answers: what clients see is not known"
    assert "status" not in state  # what a gateway said before is not the present


def test_how_many_commands_a_matcher_decides_is_told_of_its_offsets(modules: Page) -> None:
    trends = {"at_ms": [0, 5_000, 10_000], "offsets": {"1": [10, 20, 50]}}
    rates = "return m.commandRates(a[0], a[1])"

    assert call(modules, "trends", rates, trends, 1) == {"now": 6, "mean": 4, "each": [2, 6]}
    assert call(modules, "trends", rates, trends, 0) == {"now": None, "mean": None, "each": []}
    gap = {**trends, "offsets": {"1": [10, None, 50]}}
    assert call(modules, "trends", rates, gap, 1) == {"now": None, "mean": 4, "each": [None, None]}


def test_how_long_commits_take_is_what_was_known_last_and_the_mean(modules: Page) -> None:
    times = "return m.commitTimes(a[0], a[1])"
    trends = {"commit_ms": {"0": [2.0, None, 4.0, None], "1": [None]}}

    assert call(modules, "trends", times, trends, 0) == {
        "now": 4,
        "mean": 3,
        "each": [2, None, 4, None],
    }
    assert call(modules, "trends", times, trends, 1) == {"now": None, "mean": None, "each": [None]}
    assert call(modules, "trends", times, {}, 0) == {"now": None, "mean": None, "each": []}
