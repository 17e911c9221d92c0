"""`import feallm` is cheap, complete and honest about what it does not have."""

import subprocess
import sys

import pytest

import feallm


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, feallm; feallm.FeallmError; feallm.__version__\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'pydantic', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there():
    assert set(feallm.__all__) == set(dir(feallm))
    for name in feallm.__all__:
        assert getattr(feallm, name) is getattr(feallm, name)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Analyser'"):
        feallm.Analyser  # noqa: B018
