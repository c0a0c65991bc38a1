import sys

import numpy as np
import pytest
from PIL import Image
from tokenizers import ByteLevelBPETokenizer

from data import prepare
from data.sources import open_source


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        code = prepare.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_bytes_become_shards_that_the_token_source_reads(tmp_path, command):
    text = bytes(range(256)) * 4
    (tmp_path / "corpus.txt").write_bytes(text)
    out = tmp_path / "deep" / "shards"
    code, printed, errors = command("text", "--input", tmp_path / "corpus.txt", "--out", out)
    assert (code, errors) == (0, "")
    assert "train.bin: 922 tokens" in printed
    both = np.concatenate([np.fromfile(out / name, "<u2") for name in ("train.bin", "val.bin")])
    assert bytes(both.astype(np.uint8)) == text
    assert sorted(path.name for path in out.iterdir()) == ["train.bin", "val.bin"]
    source = open_source("tokens", split="validation", path=str(out), context=8, vocabulary=256)
    assert source.num_samples == (102 - 1) // 8


def test_gpt2s_encoding_where_its_vocabulary_is_given(tmp_path, command):
    text = "The thé of the other, " * 50
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator([text], vocab_size=300, show_progress=False)
    theirs.save_model(str(tmp_path))
    arguments = ("text", "--input", tmp_path / "corpus.txt", "--out", tmp_path, "--encoding", "gpt2")
    code, _, errors = command(*arguments, "--vocabulary", tmp_path)
    assert (code, errors) == (0, "")
    decoded = [
        theirs.decode(np.fromfile(tmp_path / name, "<u2").tolist()) for name in ("train.bin", "val.bin")
    ]
    assert decoded == [text[:990], text[990:]]
    code, _, errors = command(*arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: --vocabulary: missing")


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, command):
    def fails(message, *arguments):
        code, _, errors = command(*arguments)
        assert code == 2
        assert errors.count("\n") == 1
        assert message in errors

    latin, short, file = tmp_path / "latin.txt", tmp_path / "short.txt", tmp_path / "file"
    latin.write_bytes("é".encode("latin-1") * 100)
    short.write_bytes(b"short")
    file.touch()
    out = ("--out", tmp_path / "out")
    fails("nowhere: No such file", "text", "--input", tmp_path / "nowhere", *out)
    fails("Is a directory", "text", "--input", tmp_path, *out)
    fails("found 5 bytes", "text", "--input", short, *out)
    fails("not UTF-8", "text", "--input", latin, *out, "--encoding", "gpt2", "--vocabulary", tmp_path)
    fails("check --out", "text", "--input", latin, "--out", file)
    fails(
        "found no class folders" if (tmp_path / "train").exists() else "train: No such",
        "images",
        "--path",
        tmp_path,
    )
    with pytest.raises(SystemExit) as caught:  # tyro's own, for an unknown option
        command("text", "--nonsense")
    assert caught.value.code == 2


def test_an_image_folder_is_counted(tmp_path, command):
    for split, count in (("train", 3), ("val", 1)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4)).save(tmp_path / split / name / f"{number}.JPEG")
    code, printed, errors = command("images", "--path", tmp_path)
    assert (code, errors) == (0, "")
    assert f"{tmp_path}/train: 6 images, 3 to 3 a class" in printed
    assert "ready for model.num_classes = 2" in printed
    (tmp_path / "val" / "bee" / "0.JPEG").unlink()
    code, _, errors = command("images", "--path", tmp_path)
    assert (code, errors) == (2, f"error: {tmp_path}/val/bee: found no images, as in 1 of 2 classes\n")
