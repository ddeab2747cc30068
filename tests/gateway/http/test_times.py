"""Times in parameters: what RFC 3339 allows, to milliseconds."""

import pytest

from exchange.gateway.http.problems import Problem
from exchange.gateway.http.requests import moment_ms

NEW_YEAR_MS = 1_483_228_800_000  # of 2017, after a leap second


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2017-01-01T00:00:00Z", NEW_YEAR_MS),
        ("2017-01-01t00:00:00z", NEW_YEAR_MS),
        ("2017-01-01 00:00:00.0009z", NEW_YEAR_MS),
        ("2017-01-01", NEW_YEAR_MS),
        ("2017-01-01T01:00:00+01:00", NEW_YEAR_MS),
        ("2016-12-31T23:59:60Z", NEW_YEAR_MS),
        ("2016-12-31t23:59:60.5z", NEW_YEAR_MS + 500),
        ("2016-12-31T15:59:60-08:00", NEW_YEAR_MS),
        ("2016-12-31T23:59:60", NEW_YEAR_MS),
    ],
)
def test_a_time_may_be_written_in_any_way_of_rfc_3339(text: str, expected_ms: int) -> None:
    assert moment_ms({"start_time": text}, "start_time") == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T23:58:60Z",
        "2016-12-31T23:59:60-08:00",
        "2016-12-31T23:59:61Z",
        "2016-12-31T23:60:00Z",
        "0001-01-01T00:59:60+01:00",
        "yesterday",
        "",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="must be a time"):
        moment_ms({"start_time": text}, "start_time")


def test_a_plus_that_was_read_as_a_blank_is_told_how_to_be_sent() -> None:
    for text, lost in (
        ("2017-01-01T01:00:00 01:00", True),
        ("2017-01-01T01:00:00.5 0100", True),
        ("yesterday", False),
        ("2017-01-01T01:00:00+99:00", False),
    ):
        with pytest.raises(Problem, match="must be a time") as refused:
            moment_ms({"as_of_time": text}, "as_of_time")
        assert ("is to be sent as %2B" in str(refused.value.detail)) == lost, text
