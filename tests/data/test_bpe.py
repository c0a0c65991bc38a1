import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from data.bpe import BytePairEncoding
from data.errors import DataError

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's 12 o'clock.",
    "def encode(self, text):\n    return [self.ids[part] for part in text.split()]\n\n\n",
    "Ein Vöglein saß im Baum — «où est-il?» 東京で 3½ Äpfel  und\t\tmehr",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary of 400 learnt by Hugging Face's tokenizers, in GPT-2's two files."""
    folder = tmp_path_factory.mktemp("vocabulary")
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(SENTENCES * 3, vocab_size=400, show_progress=False)
    theirs.save_model(str(folder))
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.fixture(scope="module")
def ours(folder):
    return BytePairEncoding(folder)


@pytest.mark.parametrize(
    "text", [*SENTENCES, "", " ", "   a", "a   ", "\n\n a\u3000b\x85c\x1cd", "it's'LL we'll"]
)
def test_known_texts_are_encoded_as_by_hugging_face(text, ours, theirs):
    assert ours.encode(text).tolist() == theirs.encode(text).ids
    assert ours.encode(text).dtype == np.uint16


pieces = st.sampled_from(
    [" ", "  ", "\n", "'s", "'re", "the", "é", "½", "٣", "_", "!?", "字", "🙂", "\u200b", "\xa0"]
)
characters = st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0x2FFF)


@settings(deadline=None)
@given(parts=st.lists(pieces | st.text(characters, max_size=3), max_size=12))
def test_any_text_is_encoded_as_by_hugging_face(ours, theirs, parts):
    text = "".join(parts)
    assert ours.encode(text).tolist() == theirs.encode(text).ids


def test_learnt_pairs_make_text_shorter(ours):
    assert len(ours.encode(SENTENCES[0])) < len(SENTENCES[0].encode()) / 1.5


def test_files_that_are_not_gpt2s_are_one_line(folder, tmp_path):
    def opening(message):
        with pytest.raises(DataError, match=message) as caught:
            BytePairEncoding(tmp_path)
        assert "\n" not in str(caught.value)

    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    opening(rf"^{vocabulary}: No such file or directory, expected GPT-2's; check --vocabulary$")
    vocabulary.write_text("{")
    merges.write_bytes((folder / "merges.txt").read_bytes())
    opening(rf"^{tmp_path}: vocab\.json or merges\.txt is not GPT-2's \(")
    vocabulary.write_text(json.dumps({"a": 0}))
    opening(rf"^{vocabulary}: 255 of the 256 bytes are missing")
    ids = json.loads((folder / "vocab.json").read_text())
    vocabulary.write_text(json.dumps(ids | {"a": 65536}))
    opening(rf"^{vocabulary}: found ids that do not fit uint16")
    vocabulary.write_text("[]")
    opening(rf"^{vocabulary}: expected a JSON object")
    vocabulary.write_text(json.dumps(ids))
    merges.write_text("a b c\n")
    opening(rf"^{merges}: found a line without two parts")
    merges.write_text("a \u0120notlearnt\n")
    opening(rf"^{merges}: .*not in vocab\.json")
