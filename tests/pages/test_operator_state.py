"""What the operators' desk makes of what it is told: pure functions, called in the browser.

No exchange runs: the browser gets the page's own files, and nothing else.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route

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


def call(page: Page, name: str, body: str, *arguments: Any) -> Any:
    """Return what a function over a module of states (``m``) and arguments (``a``) returns."""
    whole = built(OPERATOR)
    assert isinstance(whole, Built)
    path = next(f"/{file}" for file in whole.files if file.endswith(f"operator/state/{name}.js"))
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


def test_a_switch_says_from_where_to_where_and_that_nothing_was_compared(modules: Page) -> None:
    made = generation(2, live=False, state="catching-up", positions={"0": 9, "1": 3})
    found = call(modules, "actions", "return m.actionsOn(a[0], a[1])", made, [made, generation()])

    assert next(one["will"] for one in found if one["action"] == "switch") == (
        "Queries go from generation 1 (at 0:7) to generation 2 (at 0:9, 1:3),"
        " which was NOT compared with the log. generation 1 (at 0:7) is kept."
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
    assert flow(modules, generation(2, **making, build=silent))[1:3] == [
        "done catch up",
        "now verify: verifying, 25 %, 1,200 events/s, 2 s left, nothing heard of it for 12 s",
    ]
    waits = {"live": False, "state": "catching-up", "verified": "0:9"}
    assert flow(modules, generation(2, **waits))[3] == "now switch: verified at 0:9; waits for you"


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
    for wrong in ("", "x", "0:", "0:1:2", "0:-1", "0:1,"):
        told = of("try { m.readPlaces(a[0]); return '' } catch (e) { return e.message }", wrong)
        assert "is no position such as 0:123" in told, wrong
    assert of("return a.map(m.isTime)", "2026-01-31T12:00", "0:20260131", "2026") == [
        True,
        False,
        False,
    ]


def test_what_differs_between_two_books_is_told_as_text(modules: Page) -> None:
    before, after = ([["1", "5"], ["2", "6"]], [["2", "6.0"], ["3", "7"]])
    body = "return m.differences(a[0], a[1], (row) => row[0], (row) => row[1])"

    assert call(modules, "books", body, before, after) == [
        {"key": "1", "before": "5", "after": "–"},
        {"key": "2", "before": "6", "after": "6.0"},
        {"key": "3", "before": "–", "after": "7"},
    ]


def test_what_is_not_healthy_has_what_to_do_beside_it(modules: Page) -> None:
    shard = {"shard": 0, "matcher": "unhealthy", "undecided": 4, "publishing": "unknown"}
    seen = {
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
