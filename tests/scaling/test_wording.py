import pytest

from scaling.wording import UNKNOWN, listed, mebibytes, milliseconds, number, percent, plain, size
from tests.scaling.report_cases import case, estimate


def test_a_figure_comes_with_its_interval_and_unknown_is_never_0() -> None:
    assert percent({"value": 0.951, "low": 0.94, "high": 0.9623}) == "95.1 % [94.0, 96.2]"
    assert percent(estimate(0.951, None)) == "95.1 %"
    assert milliseconds({"value": 0.0123456, "low": 0.0121, "high": 0.01251}) == "12.3 ms [12.1, 12.5]"
    assert number({"value": 123456.7, "low": 120000.0, "high": 130000.0}) == "123,457 [120,000, 130,000]"
    assert {percent(None), number(None), milliseconds(None), plain(None), mebibytes(None)} == {UNKNOWN}


@pytest.mark.parametrize(
    "value, text",
    [(0.0, "0.00 s"), (0.0123, "0.0123 s"), (4.082, "4.08 s"), (12.34, "12.3 s"), (-123.4, "-123 s")],
)
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert plain(value, "s") == text


def test_bytes_and_lists_and_sizes() -> None:
    assert [mebibytes(300 * 2**20), mebibytes(16 * 2**30)] == ["300 MiB", "16.0 GiB"]
    assert [listed(list("abc")[:words]) for words in (1, 2, 3)] == [
        "a", "a and b", "a, b and c",
    ]  # fmt: skip
    assert [size(case(workers=1)), size(case(workers=8, nodes=2))] == ["1 worker", "8 workers on 2 nodes"]
