"""What a Python lacks is said before it is started in earnest."""

import re
import sys

import pytest

from launchers.modules import check_modules
from training.problems import UsageError


def test_missing_modules_are_named_with_the_extra_that_brings_them():
    check_modules([sys.executable], ["json", "numpy"], "torch", {})
    with pytest.raises(UsageError, match=re.escape("no_such, nor_this: not installed for ")) as caught:
        check_modules([sys.executable], ["json", "no_such", "nor_this"], "torch,export", {})
    assert str(caught.value).endswith("run pip install -e '.[torch,export]' with it")


def test_a_python_that_does_not_start_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot be started"):
        check_modules([str(tmp_path / "python")], ["json"], "torch", {})
    with pytest.raises(UsageError, match="found 'exit code 1', expected a Python that starts"):
        check_modules(["false"], ["json"], "torch", {})
