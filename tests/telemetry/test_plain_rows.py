import pytest

from telemetry.plain_rows import end_row, finite, positive_s, start_row, whole, word
from tests.telemetry.telemetry_rows import start


@pytest.mark.parametrize(
    "value", [None, True, "1", [1], {}, float("nan"), float("inf"), -float("inf"), 10**400, 1e300]
)
def test_what_cannot_be_computed_with_is_unknown(value: object) -> None:
    assert finite(value) is None
    assert whole(value) is None
    assert positive_s(value) is None


def test_numbers_stay_as_they_are() -> None:
    assert [finite(value) for value in (0, -3, 0.5, 2**59)] == [0, -3, 0.5, 2**59]
    assert (whole(7), whole(7.0)) == (7, None)
    assert [positive_s(value) for value in (0.25, 3, 0, -1, 1e9)] == [0.25, 3, None, None, None]


def test_words_can_be_shown_on_a_line() -> None:
    assert word("node1 é") == "node1 é"
    assert word("a\nb\x1b[2J") == r"a\nb\x1b[2J"
    assert word(3) is None


def test_a_first_row_keeps_what_it_says_and_nothing_else() -> None:
    row = start(2)
    plain = start_row(row)
    assert all(plain[name] == row[name] for name in ("host", "boot_id", "interval_s", "driver", "cpu_cores"))
    assert [one["uuid"] for one in plain["devices"]] == ["GPU-0", "GPU-1"]
    assert plain["devices"][1]["visible"] is True
    spoiled = start_row(
        {**row, "devices": [None, {"uuid": ["x"], "visible": "yes"}], "boot_id": [], "nvml": {}}
    )
    assert (spoiled["boot_id"], spoiled["nvml"]) == (None, None)
    assert [(one["uuid"], one["visible"]) for one in spoiled["devices"]] == [(None, None)]
    assert start_row({**row, "devices": 3})["devices"] == []


def test_a_last_row_has_numbers_or_nothing() -> None:
    assert end_row({"samples": 4, "on_time_percent": "all", "cpu_time_s": None}) == {
        "samples": 4,
        "on_time_percent": None,
        "cpu_time_s": None,
    }
