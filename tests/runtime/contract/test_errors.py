"""Each kind of error has its exit code, and is one line."""

from __future__ import annotations

import pytest

from feallm.runtime.contract import errors
from feallm.runtime.contract.errors import FeallmError


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("FeallmError", 1),
        ("UsageError", 2),
        ("InputError", 3),
        ("BundleError", 4),
        ("BackendError", 5),
        ("VerificationError", 6),
        ("LimitError", 7),
    ],
)
def test_exit_codes(name, code):
    error = getattr(errors, name)("found that")
    assert isinstance(error, FeallmError)
    assert error.exit_code == code
    tree = [line.split() for line in errors.__doc__.splitlines()]
    assert any(name in line and str(code) in line for line in tree)


def test_no_error_is_without_a_code_of_its_own():
    kinds = FeallmError.__subclasses__()
    assert len({kind.exit_code for kind in kinds}) == len(kinds) == 6
    assert errors.INTERRUPTED == 130


def test_one_line_with_its_hint():
    error = FeallmError("found\n  that\there", hint="do\nthis")
    assert error.line() == "found that here (do this)"
    assert FeallmError("found that").line() == "found that" == str(FeallmError("found that"))
