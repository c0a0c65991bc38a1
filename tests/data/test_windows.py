import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.windows import PaddedDocuments, StreamWindows, open_layout, paragraph_bounds


@given(length=st.integers(2, 300), context=st.integers(1, 20))
def test_windows_predict_each_token_of_the_stream_once(length, context):
    if length < context + 1:
        return
    tokens = np.arange(length, dtype=np.uint16)
    source = StreamWindows(tokens, context, "here")
    ids = np.arange(source.num_samples)
    batch = source.batch(ids, np.zeros_like(ids))
    assert batch["inputs"].shape == batch["targets"].shape == (source.num_samples, context)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    # The token at place p is p here: every target is its input plus one, and none is left out but the tail.
    np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
    np.testing.assert_array_equal(batch["targets"].ravel(), np.arange(1, source.num_samples * context + 1))
    assert length - 1 - source.num_samples * context < context
    assert source.target_count(ids) == (batch["targets"] != -1).sum()


def test_a_stream_shorter_than_a_window_says_so():
    with pytest.raises(DataError, match=r"^here: found 4 tokens, expected at least model\.context \+ 1 = 5$"):
        StreamWindows(np.zeros(4, np.uint8), 4, "here")


def test_a_short_document_ends_in_padding_that_does_not_count():
    tokens = np.array([7, 8, 9, 1, 2, 3, 4, 5, 6, 0], np.uint8)
    source = PaddedDocuments(tokens, np.array([[0, 3], [3, 9], [9, 10]]), 4, "here")
    assert source.num_samples == 2  # the last document is one token: nothing to predict
    batch = source.batch(np.array([1, 0]), np.array([0, 0]))
    assert batch["inputs"].tolist() == [[1, 2, 3, 4], [7, 8, 0, 0]]
    assert batch["targets"].tolist() == [[2, 3, 4, 5], [8, 9, -1, -1]]
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    assert batch["replaced"] == 0


documents = st.lists(st.lists(st.integers(0, 255), min_size=2, max_size=12), min_size=1, max_size=8)


@given(documents=documents, context=st.integers(1, 10))
def test_the_count_of_targets_needs_no_reading(documents, context):
    ends = np.cumsum([len(document) for document in documents])
    bounds = np.stack([np.append(0, ends[:-1]), ends], axis=1)
    source = PaddedDocuments(np.concatenate(documents).astype(np.uint8), bounds, context, "here")
    ids = np.arange(source.num_samples)
    targets = source.batch(ids, ids)["targets"]
    assert source.target_count(ids) == (targets != -1).sum()
    for document, row in zip(documents, targets, strict=True):
        assert row[row != -1].tolist() == document[1 : context + 1]


@given(st.text(alphabet="ab\n", max_size=40).map(str.encode))
def test_paragraphs_are_what_stands_between_blank_lines(text):
    found = [text[start:end] for start, end in paragraph_bounds(np.frombuffer(text, np.uint8))]
    expected: list[bytes] = []
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line == b"\n":
            continue
        if number == 0 or lines[number - 1] == b"\n":
            expected.append(b"")
        expected[-1] += line
    assert found == expected


def test_fingerprints_tell_texts_and_layouts_apart():
    text = np.frombuffer(b"one\n\ntwo\n", np.uint8)
    bounds = paragraph_bounds(text)
    stream, padded = (open_layout(text, bounds, layout, 4, 256, "here") for layout in ("stream", "padded"))
    other = open_layout(np.frombuffer(b"one\n\ntwa\n", np.uint8), bounds, "stream", 4, 256, "here")
    same = open_layout(text.copy(), bounds, "stream", 4, 256, "here")
    assert stream.fingerprint == same.fingerprint
    assert len({stream.fingerprint, padded.fingerprint, other.fingerprint}) == 3


@pytest.mark.parametrize(
    ("layout", "vocabulary", "message"),
    [
        ("diagonal", 256, r"^data\.layout: found 'diagonal', expected stream or padded$"),
        ("stream", 255, r"^model\.vocabulary: found 255, but bytes need at least 256$"),
    ],
)
def test_what_does_not_fit_names_its_key(layout, vocabulary, message):
    with pytest.raises(DataError, match=message):
        open_layout(np.zeros(9, np.uint8), np.empty((0, 2), np.int64), layout, 4, vocabulary, "here")


def test_no_document_is_an_error():
    with pytest.raises(DataError, match=r"^here: found no document of at least 2 tokens"):
        PaddedDocuments(np.zeros(3, np.uint8), np.array([[0, 1], [1, 2]]), 4, "here")
