from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from scaling.beside import MARKS, MOST_SHOWN, SIZED, Ours, beside_chart, beside_rows, choose, note
from scaling.published import read_published
from tests.scaling.report_cases import case, texts

RESNET = {"family": "resnet", "depth": 50, "image_size": 224}
GPT = {"family": "gpt", "num_layers": 12, "width": 768}
TINY = Ours(
    "demo", "weak", {"family": "resnet", "depth": 18, "image_size": 32}, "one core of EPYC", "float32", 96
)


def test_the_models_that_a_recipe_can_have_are_published() -> None:
    assert set(SIZED) <= {curve.model for curve in read_published()}
    assert len(MARKS) >= MOST_SHOWN


@pytest.mark.parametrize("model, name", [(RESNET, "resnet50"), (GPT, "gpt2-124m")])
def test_the_same_model_comes_first_and_like_hardware_next(model: dict, name: str) -> None:
    found = choose(replace(TINY, model=model, device="NVIDIA A100-SXM4-80GB"))
    assert (found[0].curve.model, found[0].same_model, found[0].like_hardware) == (name, True, True)
    assert all(one.same_model or one.like_hardware for one in found)
    assert "same model on like hardware" in note(found)
    assert "another model" not in found[0].differs
    smaller = {"family": "resnet", "depth": 50, "image_size": 32}
    assert not any(one.same_model for one in choose(replace(TINY, model=smaller)))


def test_a_small_model_on_a_cpu_gets_orientation_and_is_told_so() -> None:
    found = choose(TINY)
    assert 3 <= len(found) <= MOST_SHOWN
    assert not any(one.same_model or one.like_hardware for one in found)
    assert all(one.curve.exchange == "all-reduce" and one.efficiency for one in found)
    assert "no comparison" in note(found)
    for one in found:
        for word in (one.curve.model, one.curve.hardware, "EPYC", "batch", "here 96"):
            assert word in one.differs
    assert "of 2017" in found[0].differs


def test_efficiency_is_against_the_fewest_published_devices() -> None:
    published = {curve.label: curve for curve in read_published()}
    bert = published["dle-bert-128-amp bert-large-128"]
    (found,) = choose(replace(TINY, scaling="strong"), [bert])
    assert found.fewest == 8
    assert found.efficiency[256] == pytest.approx(138294 / 256 / (4553 / 8))
    assert "94.9 % on 256 devices, against 8" in beside_rows([found])[0]["efficiency"]
    assert "batch 65,536 in all" in found.differs
    assert "strong scaling" in choose(TINY, [bert])[0].differs


def test_a_throughput_alone_has_no_efficiency_but_stands_in_the_table() -> None:
    found = choose(replace(TINY, model=GPT))
    (row,) = [row for row in beside_rows(found) if "llm.c" in row["published"]]
    assert row["efficiency"] == "n/a: 8 devices alone, 3,744,914 tokens/s"
    assert beside_chart([case()], [one for one in found if not one.efficiency], TINY, "") is None


def test_ours_stand_in_the_colours_of_their_strategies() -> None:
    found = choose(TINY)
    chart = beside_chart([case("torch-ddp", count) for count in (1, 2)], found, TINY, "words")
    assert {"torch-ddp", "512"} <= set(texts(chart))
    axes = Figure().subplots()
    chart.draw(axes)
    (ours,) = axes.containers
    assert list(ours[0].get_ydata()) == pytest.approx([90, 90])
    theirs = axes.lines[-len(found) :]
    assert len({line.get_marker() for line in theirs}) == len(found)
    assert theirs[0].get_ydata()[0] == 100
