"""`feallm verify` of the workshop: Core ML's packages are interpreted, all else runs as it does."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("coremltools")

from feallm.export import verify  # noqa: E402
from feallm.runtime.verify.verdict import Line, Report, Result  # noqa: E402


def report(passed):
    lines = (
        Line(
            "report", "faces no worse than the golden answer", 0.98 if passed else 0.9, 0.97, True
        ),
        Line("head", "same expression first", 0.99),
    )
    result = Result("vision.int8.pte", "eyes", "executorch", "XNNPACK", 1, 500, 1.0, lines)
    return Report("feallm-edge", "0" * 64, {}, 500, {}, (result,))


@pytest.mark.parametrize(("passed", "word"), [(True, "agrees"), (False, "**does not**")])
def test_the_table_says_what_was_found(passed, word):
    head, _, row = verify.table(report(passed)).split("\n")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == len(head.strip("|").split("|"))
    assert cells[:3] == ["vision.int8.pte", "eyes", "XNNPACK"]
    assert cells[-1] == word and "0.99" in cells and "–" in cells


def test_a_bundle_is_verified_and_told(exported, monkeypatch, capsys):
    """The tiny bundle has no golden outputs of its own."""
    monkeypatch.setattr(sys, "argv", ["verify", str(exported[1])])
    with pytest.raises(SystemExit) as stop:
        verify.main()
    assert stop.value.code == 3 and "no golden outputs" in capsys.readouterr().err


def test_packages_are_interpreted_where_core_ml_is_missing(exported):
    from feallm.runtime.bundle.open import open_bundle

    doors = verify.Interpreting(open_bundle(exported[1]))
    onnx = doors.bundle.manifest.artifacts["vision.fp32.onnx"]
    assert doors.missing(onnx) is None
    assert doors.missing(onnx.model_copy(update={"format": "mlpackage"})) is None
