"""The table of published curves: it reads, it is consistent, and a contradiction in it is noticed."""

from pathlib import Path

import pytest

from scaling.published import TABLE, read_published


def test_a_known_curve_and_rows_that_are_all_of_a_kind() -> None:
    curves = {curve.label: curve for curve in read_published()}
    bert = curves["dle-bert-128-amp bert-large-128"]
    assert (bert.points[8], bert.points[256]) == (4553, 138294)
    assert (bert.scaling, bert.global_batch, bert.batch_per_device) == ("strong", 65536, None)
    assert len(curves) == len(read_published()) >= 16
    for curve in curves.values():
        assert curve.exchange in ("all-reduce", "parameter servers", "sharded")
        assert curve.scaling in ("weak", "strong")
        assert curve.scaling == "weak" or curve.global_batch
        assert list(curve.points) == sorted(curve.points)
        assert curve.unit == "efficiency" or list(curve.points.values()) == sorted(curve.points.values())
        assert ": " in curve.source, "project: document"


def test_rows_of_one_curve_that_disagree_are_an_error(tmp_path: Path) -> None:
    table = tmp_path / "published.csv"
    table.write_text(TABLE.read_text().replace("8,1081,images/s,64", "8,1081,images/s,32"))
    with pytest.raises(ValueError, match="rows of tf-p100-dgx1 vgg16 disagree"):
        read_published(table)
