import numpy as np

from data.synthetic import SyntheticImages, SyntheticTokens


def test_images_have_the_shape_of_the_real_thing():
    source = SyntheticImages("train", image_size=24, num_classes=7, seed=3)
    batch = source.batch(np.array([5, 65_535, 5]), np.zeros(3, int))
    assert batch["inputs"].shape == (3, 24, 24, 3)
    assert batch["inputs"].dtype == np.uint8
    assert batch["targets"].dtype == np.int32
    assert 0 <= batch["targets"].min() <= batch["targets"].max() < 7
    np.testing.assert_array_equal(batch["inputs"][0], batch["inputs"][2])
    assert (batch["inputs"][0] != batch["inputs"][1]).mean() > 0.9
    assert source.target_count(np.arange(12)) == 12
    assert source.resident


def test_tokens_are_predicted_by_the_next():
    source = SyntheticTokens("train", context=16, vocabulary=100, seed=3)
    batch = source.batch(np.array([0, 65_535]), np.zeros(2, int))
    assert batch["inputs"].shape == batch["targets"].shape == (2, 16)
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    assert 90 < source.batch(np.arange(1000), np.zeros(1000, int))["inputs"].max() < 100
    assert source.target_count(np.arange(3)) == 48
    assert source.resident


def test_seed_and_split_decide():
    prints = [
        SyntheticTokens(split, 8, 50, seed).fingerprint
        for split, seed in (
            ("train", 0),
            ("train", 1),
            ("validation", 0),
            ("train", 0),
            ("train", -1),
            ("train", -2),
        )
    ]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 5
    images = [SyntheticImages("train", 8, 10, seed).fingerprint for seed in (0, 1)]
    assert images[0] != images[1]
