import sys
from pathlib import Path

import pytest

from training.options import HorovodOptions, Options, parse, warn
from training.problems import UsageError

PROGRAM = "python -m distributed.torch_single"


def test_every_option_is_read() -> None:
    text = "--recipe r --run-dir d --workers 3 --accumulation 2 --resume --stop-after 4 --eager"
    options = parse(Options, PROGRAM, text.split())
    assert options == Options("r", Path("d"), [], 3, 2, True, 4, True)


def test_horovods_own_options_are_read_beside_the_others_and_left_alone_by_default() -> None:
    text = (
        "--recipe r --fusion-threshold-mib 0.5 --cycle-time-ms 2 --compression fp16 --adasum --autotune "
        "--timeline t.json --stall-check-s 0"
    )
    found = parse(HorovodOptions, PROGRAM, text.split())
    assert found.recipe == "r"
    assert (found.fusion_threshold_mib, found.cycle_time_ms, found.stall_check_s) == (0.5, 2.0, 0.0)
    assert (found.compression, found.adasum, found.autotune) == ("fp16", True, True)
    assert found.timeline == Path("t.json")
    own = set(HorovodOptions.__dataclass_fields__) - set(Options.__dataclass_fields__)
    plain = parse(HorovodOptions, PROGRAM, [])
    assert [name for name in sorted(own) if getattr(plain, name)] == ["compression"]
    assert plain == HorovodOptions(compression="none")
    with pytest.raises(UsageError, match=r"'bf16'.*--compression.*none.*fp16") as caught:
        parse(HorovodOptions, PROGRAM, ["--compression", "bf16"])
    assert str(caught.value).isprintable()


def test_set_takes_any_number_of_overrides_any_number_of_times_in_their_order() -> None:
    text = "--set a=1 b.c=2 --recipe r --set a=3 --eager --set d=[1,2]"
    assert parse(Options, PROGRAM, text.split()).overrides == ("a=1", "b.c=2", "a=3", "d=[1,2]")
    assert parse(Options, PROGRAM, []).overrides == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--recpie digits-resnet18", ("--recpie",)),
        ("--workers two", ("--workers", "two")),
        ("--workers", ("--workers",)),
        ("--stop-after 1.5", ("--stop-after", "1.5")),
        ("--run-dir", ("--run-dir",)),
        ("--no-resume", ("--no-resume",)),
        ("--eager yes", ("yes",)),
        ("digits-resnet18", ("digits-resnet18",)),
    ],
)
def test_what_does_not_parse_is_one_line_that_names_it(text: str, words: tuple[str, ...], capfd) -> None:
    with pytest.raises(UsageError) as caught:
        parse(Options, PROGRAM, text.split())
    line = str(caught.value)
    assert line.isprintable()
    assert all(word in line for word in words), line
    assert line.endswith(f"see {PROGRAM} --help")
    assert not set(line) & set("│╭╮╰╯─")
    assert capfd.readouterr() == ("", "")


def test_help_explains_each_option_and_ends_well(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Options, PROGRAM, ["--help"])
    assert not caught.value.code
    shown = capsys.readouterr().out
    for name in Options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in shown


def test_without_arguments_the_command_line_is_read(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--recipe", "mine"])
    assert parse(Options, PROGRAM).recipe == "mine"


def test_a_warning_is_one_line_on_standard_error_whatever_is_in_it(capsys) -> None:
    warn("--run-dir a\nb\x1b[2J: exists already")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("trimaran: --run-dir a")
    assert shown.err.endswith(": exists already\n")
    assert shown.err[:-1].isprintable()
