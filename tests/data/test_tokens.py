import hashlib
import os
import pickle

import numpy as np
import pytest

from data.errors import DataError
from data.tokens import TokenShards


def nanogpt(path, tokens):
    np.asarray(tokens, "<u2").tofile(path)


def llm_c(path, tokens, magic=20240520, version=1, count=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens, "<u2").tobytes())


def every_sample(source):
    ids = np.arange(source.num_samples)
    return source.batch(ids, np.zeros_like(ids))


def test_nanogpts_files(tmp_path):
    nanogpt(tmp_path / "train.bin", range(1000, 1021))
    nanogpt(tmp_path / "val.bin", range(2000, 2011))
    train, held_out = (
        TokenShards(str(tmp_path), split, "stream", 5, 50257) for split in ("train", "validation")
    )
    batch = every_sample(train)
    np.testing.assert_array_equal(batch["inputs"], np.arange(1000, 1020).reshape(4, 5))
    np.testing.assert_array_equal(batch["targets"], np.arange(1001, 1021).reshape(4, 5))
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    assert held_out.num_samples == 2
    assert held_out.target_count(np.arange(2)) == 10


def test_llm_cs_shards_are_read_in_order_and_no_window_spans_two(tmp_path):
    llm_c(tmp_path / "fineweb_train_000002.bin", range(100, 111))
    llm_c(tmp_path / "fineweb_train_000001.bin", range(0, 9))
    llm_c(tmp_path / "fineweb_val_000000.bin", range(5))
    train = TokenShards(str(tmp_path), "train", "stream", 4, 50257)
    batch = every_sample(train)
    assert batch["inputs"][:, 0].tolist() == [0, 4, 100, 104]
    np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
    shuffled = train.batch(np.array([3, 0, 2]), np.zeros(3, int))
    assert shuffled["inputs"][:, 0].tolist() == [104, 0, 100]
    in_one = train.batch(np.array([3, 2, 3]), np.zeros(3, int))
    assert in_one["inputs"][:, 0].tolist() == [104, 100, 104]


def test_a_shard_without_a_window_is_passed_over(tmp_path):
    for number, tokens in enumerate((range(9), range(50, 53), range(100, 109))):
        nanogpt(tmp_path / f"train_{number}.bin", tokens)
    batch = every_sample(TokenShards(str(tmp_path), "train", "stream", 4, 50257))
    assert batch["inputs"][:, 0].tolist() == [0, 4, 100, 104]


def test_a_loader_process_reads_the_files_itself(tmp_path):
    nanogpt(tmp_path / "train.bin", np.arange(100_000) % 50_000)
    source = TokenShards(str(tmp_path), "train", "stream", 8, 50257)
    pickled = pickle.dumps(source)
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(
        every_sample(pickle.loads(pickled))["inputs"], every_sample(source)["inputs"]
    )


def test_the_fingerprint_follows_the_tokens(tmp_path):
    prints = set()
    for last in (1, 2):
        nanogpt(tmp_path / "train.bin", [0] * 50 + [last])
        prints.add(TokenShards(str(tmp_path), "train", "stream", 8, 50257).fingerprint)
    llm_c(tmp_path / "train.bin", [0] * 50 + [2])
    prints.add(TokenShards(str(tmp_path), "train", "stream", 8, 50257).fingerprint)
    assert len(prints) == 2  # the header is no data


def test_the_fingerprint_is_of_length_and_sixteen_blocks(tmp_path):
    """As run.json has it since the first version: a run that goes on must find it again."""
    for length in (3, 16, 53, 2_500_001):
        tokens = np.random.default_rng(length).integers(0, 50_000, length).astype("<u2")
        llm_c(tmp_path / "train.bin", tokens)
        digest = hashlib.sha256(length.to_bytes(8, "little"))
        for block in np.array_split(tokens, 16):
            digest.update(block[: 2**16].tobytes())
        assert TokenShards(str(tmp_path), "train", "stream", 2, 50257).fingerprint == digest.hexdigest()


def test_a_shard_that_is_cut_short_or_lost_in_mid_run_is_named(tmp_path):
    """Were it mapped, the process would die by SIGBUS."""
    path = tmp_path / "train.bin"
    nanogpt(path, range(41))
    source = TokenShards(str(tmp_path), "train", "stream", 8, 50257)
    os.truncate(path, 2 * 16)
    assert source.batch(np.array([0]), np.array([0]))["targets"].tolist() == [list(range(1, 9))]
    with pytest.raises(DataError, match=rf"^{path}: ends before token 17, but had 41 when the run started"):
        source.batch(np.array([0, 1]), np.array([0, 0]))
    path.unlink()
    with pytest.raises(DataError, match=rf"^{path}: No such file or directory; check data\.path$"):
        source.batch(np.array([0]), np.array([0]))


def test_an_id_beyond_the_vocabulary_is_found_on_opening(tmp_path):
    nanogpt(tmp_path / "train.bin", [0, 1, 2, 300, 4])
    message = r"train\.bin: found token id 300, expected ids below model\.vocabulary = 256"
    with pytest.raises(DataError, match=message):
        TokenShards(str(tmp_path), "train", "stream", 4, 256)


def test_the_error_names_the_shard_of_the_id(tmp_path):
    nanogpt(tmp_path / "train_0.bin", np.zeros(8 * 10_000))
    tokens = np.zeros(8 * 10_000, np.uint16)
    tokens[8 * 9000 + 3] = 300
    nanogpt(tmp_path / "train_1.bin", tokens)
    source = TokenShards(str(tmp_path), "train", "stream", 8, 256)
    with pytest.raises(DataError, match=r"train_1\.bin: found token id 300"):
        source.batch(np.array([0, 9999 + 9000, 1]), np.zeros(3, int))


@pytest.mark.parametrize("place", [8 * 9000 + 3, 8 * 9001])  # among the inputs; as the last target
def test_an_id_beyond_the_vocabulary_is_found_in_its_batch(tmp_path, place):
    tokens = np.zeros(8 * 10_000, np.uint16)
    tokens[place] = 300
    nanogpt(tmp_path / "train.bin", tokens)
    source = TokenShards(str(tmp_path), "train", "stream", 8, 256)
    source.batch(np.array([8999]), np.array([0]))
    with pytest.raises(DataError, match="found token id 300"):
        source.batch(np.array([9000]), np.array([0]))


def test_what_is_no_shard_is_one_line_that_names_it(tmp_path):
    def opening(message, path=tmp_path, layout="stream"):
        with pytest.raises(DataError, match=message) as caught:
            TokenShards(str(path), "train", layout, 4, 50257)
        assert "\n" not in str(caught.value)

    opening(rf"^{tmp_path}/nowhere: no such folder", tmp_path / "nowhere")
    opening(rf"^{tmp_path}: found no \*train\*\.bin; make them with python -m data\.prepare text$")
    opening(r"^data\.layout: found 'padded'", layout="padded")
    shard = tmp_path / "train.bin"
    shard.touch()
    opening(rf"^{shard}: found 0 bytes, expected uint16 token ids")
    shard.write_bytes(b"odd")
    opening(rf"^{shard}: found 3 bytes, expected uint16 token ids")
    opening(rf"^{shard}: no such folder", shard)
    nanogpt(shard, [1, 2, 3, 4])
    opening(rf"^{tmp_path}: no train shard has model\.context \+ 1 = 5 tokens")
    llm_c(shard, range(100), count=200)
    opening(rf"^{shard}: found version 1 and 1224 bytes, expected version 1 and 1424 bytes")
    llm_c(shard, range(100), version=2)
    opening(rf"^{shard}: found version 2 ")
