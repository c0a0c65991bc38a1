"""What is known of the published runs: every setup has its curve, and the models have their published sizes."""

import pytest

from scaling.published import read_published
from scaling.published_setups import SETUPS, alexnet_gradients, even_gradients, vgg16_gradients


def test_every_setup_belongs_to_a_curve_and_agrees_with_its_batch() -> None:
    curves = {curve.label: curve for curve in read_published()}
    assert set(SETUPS) <= set(curves)
    for label, make in SETUPS.items():
        setup, curve = make(), curves[label]
        assert curve.batch_per_device in (None, setup.micro_batch)
        if curve.global_batch:  # every count makes whole micro-batches
            assert all(curve.global_batch % (setup.micro_batch * count) == 0 for count in curve.points)
        assert (setup.update_s > 0) == (curve.scaling == "strong")


@pytest.mark.parametrize(
    ("gradients", "millions"), [(vgg16_gradients(), 138.36), (alexnet_gradients(), 61.1)]
)
def test_models_have_their_published_sizes(gradients, millions: float) -> None:
    assert sum(gradient.num_bytes for gradient in gradients) == pytest.approx(4e6 * millions, rel=1e-3)
    assert [gradient.ready_share for gradient in gradients] == sorted(g.ready_share for g in gradients)
    assert gradients[-1].ready_share == 1
    assert gradients[5].ready_share < 0.1  # the dense layers' many gradients come first and cost little


def test_even_pieces() -> None:
    pieces = even_gradients(1000, 2, 4)
    assert [(piece.num_bytes, piece.ready_share) for piece in pieces] == [
        (500, 0.25), (500, 0.5), (500, 0.75), (500, 1.0)
    ]  # fmt: skip
