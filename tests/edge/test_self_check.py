"""The check at the first start, as `analyze` and `live` make it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from feallm.edge import analyze, live
from feallm.edge.engines import Engines
from feallm.runtime.backends.base import AU_PROBABILITY
from feallm.runtime.contract.errors import VerificationError

SAID = "first start of this bundle on this device"


@pytest.fixture(scope="module")
def golden(record, toy_bundle):
    return record.of(toy_bundle, record.crops(10))


@pytest.fixture
def bundle(record, toy, toy_bundle, golden, tmp_path):
    return record.bundle(toy_bundle, tmp_path / "bundle", toy, golden)


@pytest.fixture
def spoilt(record, toy, toy_bundle, golden, tmp_path):
    outputs = {**golden.outputs, AU_PROBABILITY: np.roll(golden.outputs[AU_PROBABILITY], 1, 1)}
    wrong = replace(golden, outputs=outputs)
    return record.bundle(toy_bundle, tmp_path / "spoilt", toy, wrong)


@pytest.fixture
def state(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "crop.png"
    cv2.imwrite(str(path), np.full((128, 112, 3), 240, np.uint8))
    return path


@pytest.fixture
def call(feallm, picture, tmp_path):
    """`analyze` a crop with a bundle, to another folder each time."""
    number = iter(range(9))

    def analyze(bundle, *words):
        out = tmp_path / f"rows-{next(number)}"
        return (*feallm("analyze", picture, "--no-detect", "--bundle", bundle, "--out", out,
                        "--explain", "never", *words), out)  # fmt: skip

    return analyze


def test_it_is_said_once(call, bundle, state):
    code, _, err, out = call(bundle)
    assert code == 0 and (out / "readings.jsonl").is_file()
    (line,) = [line for line in err.splitlines() if SAID in line]
    (file,) = (state / "checked").iterdir()
    assert "10 golden faces are answered as they should be" in line and f"kept in {file}" in line
    code, _, err, _ = call(bundle)
    assert code == 0 and SAID not in err


def test_it_is_said_on_stderr_alone(call, bundle, state):
    code, out, err, _ = call(bundle, "--json")
    assert code == 0 and SAID in err and SAID not in out


def test_other_threads_are_checked_too(call, bundle, state):
    assert SAID in call(bundle)[2]
    assert SAID in call(bundle, "--threads", 2)[2]
    assert SAID not in call(bundle, "--threads", 2)[2]


def test_where_nothing_can_be_kept(call, bundle, state):
    state.write_text("a file")
    for _ in range(2):
        code, _, err, _ = call(bundle)
        assert code == 0 and "cannot be kept here: it is done each time" in err


def test_a_bundle_that_answers_otherwise_reads_nobody(call, spoilt, state):
    for _ in range(2):
        code, _, err, out = call(spoilt)
        assert code == 6 and not out.exists()
        (line,) = err.splitlines()
        assert line.startswith("feallm: toy does not answer on this device as it should: vision: ")
        assert f"`feallm verify {spoilt}` tells more" in line
    assert not state.exists()


def test_a_bundle_without_golden_outputs_says_nothing(call, toy_bundle, state):
    code, _, err, _ = call(toy_bundle)
    assert code == 0 and "first start" not in err and not state.exists()


def test_live_makes_the_same_check(bundle, spoilt, state, capsys):
    for _ in range(2):
        live.open_analyzer(live.Request("-", None, bundle, None)).close()
    assert capsys.readouterr().err.count(SAID) == 1
    with pytest.raises(VerificationError, match="does not answer on this device"):
        live.open_analyzer(live.Request("-", None, spoilt, None))


def test_what_will_run_is_what_is_checked(record, toy, toy_bundle, golden, state, tmp_path):
    """The second file is the spoilt one: it counts when it is asked for by name."""

    def second(fields):
        folder = tmp_path / "two"
        (folder / "other.onnx").write_bytes((folder / "vision.onnx").read_bytes())
        record.add(folder, fields, "other.onnx", "onnx")
        strict = {"eyes": {"points": None, "au_same": 1.0, "expression_kl": 0.0}}
        fields["artifacts"]["other.onnx"]["tolerance"] = strict
        fields["vision"].append("other.onnx")

    expression = golden.outputs["expression"] * np.float32(0.9) + np.float32(0.0125)
    nearly = replace(golden, outputs={**golden.outputs, "expression": expression})

    def loose(fields):
        fields["artifacts"]["vision"]["tolerance"] = {"eyes": {"au_same": 0.9}}
        second(fields)

    folder = record.bundle(toy_bundle, tmp_path / "two", toy, nearly, loose)
    request = analyze.Request([], None, folder, None, detect=False)
    analyze.open_analyzer(request).close()
    other = replace(request, engines=Engines("other.onnx", None, None))
    with pytest.raises(VerificationError, match="other.onnx: KL of the expression"):
        analyze.open_analyzer(other)
