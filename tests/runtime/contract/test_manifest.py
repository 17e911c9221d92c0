"""What a manifest may say, and how its digest is made."""

from __future__ import annotations

import copy
import hashlib
import json
import math

import pytest
from pydantic import ValidationError

from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP
from feallm.runtime.contract.manifest import Manifest, canonical, digest

LANGUAGE = {
    "artifacts": ["words"],
    "visual_tokens": 17,
    "width": 256,
    "question": "Why?",
    "max_new_tokens": 180,
    "context": 256,
}
GGUF = {
    "file": "language.gguf",
    "format": "gguf",
    "precision": "fp16",
    "sha256": "a" * 64,
    "size_bytes": 1,
}

ESC = "toy\x1b[2J"  # clears a terminal
SOURCE = {"name": "drawn", "licence": "CC0", "rows": 3, "sha256": "a" * 64}


@pytest.fixture
def fields(toy_bundle):
    return json.loads((toy_bundle / "manifest.json").read_text())


def changed(fields, path, value):
    """The fields with the value at a path like `geometry.border` replaced."""
    result = copy.deepcopy(fields)
    *way, last = path.split(".")
    place = result
    for name in way:
        place = place[name]
    place[last] = value
    return result


def test_a_good_one(fields):
    manifest = Manifest.model_validate(fields)
    assert manifest.geometry.crop() == CROP
    assert manifest.preprocessing.mean_points == MEAN_POINTS_CROP
    assert manifest.aus == AU_KEYS and manifest.expressions == EXPRESSIONS


def test_it_comes_back_from_its_own_json(fields):
    manifest = Manifest.model_validate(fields)
    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == fields


def test_the_widest_that_may_be_said(fields):
    """Beside every limit of `test_what_it_may_not_say`; pydantic 2.0 counts bytes of a text."""
    fields["artifacts"]["pictures"] = {**GGUF, "format": "npz", "size_bytes": 2**40}
    fields["golden"] = {"artifact": "pictures", "crop_px": 1e6, "missed": 10**6}
    fields["profile"] = {"name": "a" * 100, "memory_mb": 10**6, "size_mb": 10**6}
    fields |= {"name": "n" * 100, "version": "1.0+a~b", "notice": "zwei\nZeilen: ümläut 顔 " * 300}
    fields["training"]["sources"] = [SOURCE]
    fields["geometry"]["points_px"] = [[0, 0], [1, 0], [0, 1], [1, 1], [9, 9]]
    assert Manifest.model_validate(fields).golden.missed == 10**6


def test_words(fields):
    fields["artifacts"]["words"] = GGUF
    manifest = Manifest.model_validate({**fields, "language": LANGUAGE})
    assert manifest.language is not None and manifest.language.visual_tokens == 17


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema_version", 2, "schema_version"),
        ("mood", "good", "mood"),
        ("geometry.depth_px", 3, "depth_px"),
        ("artifacts.vision.url", "x", "url"),
        ("training.user", "x", "user"),
        ("aus", [*AU_KEYS[1:], AU_KEYS[0]], "the AU order"),
        ("aus", list(AU_KEYS[:-1]), "the AU order"),
        ("expressions", sorted(EXPRESSIONS), "the order of expressions"),
        ("aus_trained", ["AU1"], "different AUs"),
        ("aus_trained", ["AU1", "AU4", "AU6", "AU12", "AU15", "AU25", "AU99"], "AU99"),
        ("thresholds", {}, "different AUs"),
        ("thresholds.AU12", 1.5, "AU12"),
        ("thresholds.AU12", -0.1, "AU12"),
        ("thresholds.AU12", math.nan, "AU12"),
        ("thresholds.AU12", None, "AU12"),
        ("vision", ["sight"], "no artifact named sight"),
        ("vision", [], "vision"),
        ("report", "figures", "no artifact named figures"),
        ("varies", {"sight": "why"}, "varies names no artifact: sight"),
        ("language", LANGUAGE, "no artifact named words"),
        ("digest", "0" * 63, "digest"),
        ("digest", "Z" * 64, "digest"),
        ("artifacts.vision.sha256", "a" * 64 + "\n", "sha256"),
        ("artifacts.vision.size_bytes", 0, "size_bytes"),
        ("artifacts.vision.format", "pickle", "format"),
        ("artifacts.vision.format", "json", "no engine runs vision"),
        ("artifacts.vision.file", "v" * 101, "file"),
        ("artifacts.vision.file", "manifest.json", "share a file"),
        ("artifacts.vision.file", "Manifest.JSON", "share a file"),
        ("artifacts.vision.file", "manifest.sig", "share a file"),
        ("artifacts.vision.tolerance", {"ears": {}}, "tolerance.ears"),
        ("artifacts.vision.tolerance", None, "tolerance"),
        ("golden", {"artifact": "pictures", "crop_px": 1.0}, "no artifact named pictures"),
        ("golden", {"artifact": "vision"}, "golden.crop_px"),
        ("golden", {"artifact": "vision", "crop_px": -1.0}, "golden.crop_px"),
        ("golden", {"artifact": "vision", "crop_px": 1.0, "missed": -1}, "golden.missed"),
        ("golden", {"artifact": "vision", "crop_px": 1.0, "missed": 10**400}, "golden.missed"),
        ("golden", {"artifact": "vision", "crop_px": 1.0, "missed": 10**6 + 1}, "golden.missed"),
        ("golden", {"artifact": "vision", "crop_px": 10**400}, "golden.crop_px"),
        ("golden", {"artifact": "vision", "crop_px": 1e300}, "golden.crop_px"),
        ("artifacts.vision.size_bytes", 2**40 + 1, "size_bytes"),
        ("training.seed", 10**400, "seed"),
        ("profile", {"name": "a", "memory_mb": 10**400, "size_mb": 1}, "memory_mb"),
        ("profile", {"name": "a", "memory_mb": 1, "size_mb": 10**7}, "size_mb"),
        ("profile", {"name": "a" * 101, "memory_mb": 1, "size_mb": 1}, "profile.name"),
        ("profile", {"name": "a", "memory_mb": 1, "size_mb": 1, "minimum_os": ESC}, "minimum_os"),
        *((f, v, f) for f in ("name", "version") for v in (ESC, "", "a b", "é", "a\n", "a" * 101)),
        *((f, v, f) for f in ("licence", "notice") for v in (ESC, "\x9b2J", "\r", "a" * 10_001)),
        ("training.command", ESC, "training.command"),
        ("training.size", ESC, "training.size"),
        ("training.sources", [{**SOURCE, "rows": 10**400}], "rows"),
        *(("training.sources", [{**SOURCE, f: ESC}], f) for f in ("name", "licence", "sha256")),
        ("regions", [ESC], "regions"),
        ("varies", {"vision": ESC}, "varies"),
        (f"artifacts.{ESC}", GGUF, "artifacts"),
        ("artifacts.other", GGUF, "nothing reads the artifact other"),
        ("artifacts.vision.thresholds", {"AU1": 0.5}, "thresholds of other AUs"),
        ("artifacts.vision.only_on", ["npu"], "only_on"),
        ("profile", {"name": "A board", "memory_mb": 1, "size_mb": 1}, "profile.name"),
        ("geometry.width_px", 0, "width_px"),
        ("geometry.width_px", 100_000, "width_px"),
        ("geometry.border", 256, "border"),
        ("geometry.points_px", [[1, 2]] * 4, "points_px"),
        ("geometry.points_px", [[50, 60]] * 5, "coincide"),
        ("geometry.points_px", [[50, 60 + k * 1e-300] for k in range(5)], "coincide"),
        ("geometry.points_px", [[50 + k * 0.9, 60] for k in range(5)], "coincide"),
        ("geometry.points_px", [[50 + k * 5, 20 + k * 10] for k in range(5)], "on a line"),
        ("geometry.points_px", [[50, 10**400], [9, 9], [5, 6], [7, 8], [9, 10]], "points_px"),
        ("preprocessing.mean_points", [[0.5, 0.5]] * 5, "coincide"),
        ("preprocessing.mean_points", [[k / 5, k / 5] for k in range(5)], "on a line"),
        ("preprocessing.mean_points", [[k / 5, 1e300] for k in range(5)], "outside the picture"),
        ("geometry.points_px", [[-1, 2], [9, 9], [5, 6], [7, 8], [9, 10]], "outside"),
        ("geometry.points_px", [[1, math.nan], [9, 9], [5, 6], [7, 8], [9, 10]], "outside"),
        ("preprocessing.colour", "BGR", "colour"),
        ("preprocessing.dtype", "float32", "dtype"),
    ],
)
def test_what_it_may_not_say(fields, path, value, words):
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(changed(fields, path, value))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".hidden",
        "a b",
        "x\n",
        "C:x",
        "é",
        "a\0b",
    ],
)
def test_a_file_name_is_no_path(fields, name):
    with pytest.raises(ValidationError, match="artifacts.vision.file"):
        Manifest.model_validate(changed(fields, "artifacts.vision.file", name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visual_tokens", 0),
        ("visual_tokens", 100_000),
        ("width", 0),
        ("width", 10**400),
        ("question", ESC),
        ("max_new_tokens", 240),  # no room beside the visual tokens
        ("context", 63),
        ("context", 10**12),
    ],
)
def test_a_language_part_that_cannot_be(fields, name, value):
    fields["artifacts"]["words"] = GGUF
    with pytest.raises(ValidationError, match="language"):
        Manifest.model_validate({**fields, "language": {**LANGUAGE, name: value}})


OPTIONAL = {"detector", "golden", "profile", "report", "varies"}


def test_what_a_bundle_may_lack(fields):
    manifest = Manifest.model_validate(fields)
    assert manifest.detector is manifest.profile is manifest.report is manifest.golden is None
    assert all(artifact.tolerance == {} for artifact in manifest.artifacts.values())


@pytest.mark.parametrize("change", [str, str.upper, str.capitalize])
def test_two_artifacts_share_no_file(fields, change):
    """Nor do names that a disk may take for one."""
    fields["artifacts"]["words"] = {**GGUF, "file": change(fields["artifacts"]["vision"]["file"])}
    with pytest.raises(ValidationError, match="share a file"):
        Manifest.model_validate({**fields, "language": LANGUAGE})


@pytest.mark.parametrize("name", sorted(set(Manifest.model_fields) - OPTIONAL))
def test_every_field_is_required(fields, name):
    del fields[name]
    with pytest.raises(ValidationError, match=name):
        Manifest.model_validate(fields)


def with_detector(fields, **changes):
    """The fields with a detector, and how it is asked changed."""
    finder = {**GGUF, "file": "finder.onnx", "format": "onnx"}
    fields = {**fields, "artifacts": {**fields["artifacts"], "finder": finder}}
    stated = {
        "artifact": "finder",
        "score": 0.6,
        "overlap": 0.3,
        "still_px": 640,
        "video_px": 320,
        "training": fields["training"],
    }
    return {**fields, "detector": {**stated, **changes}}


def test_how_the_detector_is_asked(fields):
    stated = Manifest.model_validate(with_detector(fields)).detector
    assert stated is not None and (stated.score, stated.video_px) == (0.6, 320)


@pytest.mark.parametrize(
    "name, value",
    [("artifact", "eyes"), ("score", 1.2), ("overlap", -0.1), ("still_px", 8), ("video_px", 1e6)],
)
def test_a_detector_that_cannot_be(fields, name, value):
    with pytest.raises(ValidationError):
        Manifest.model_validate(with_detector(fields, **{name: value}))


def test_a_detector_is_nothing_else(fields):
    good = with_detector(fields)
    Manifest.model_validate(good)
    for kind in ("gguf", "pte", "json"):
        with pytest.raises(ValidationError, match="finder is no detector"):
            Manifest.model_validate(changed(good, "artifacts.finder.format", kind))
    with pytest.raises(ValidationError, match="vision is no detector"):
        Manifest.model_validate({**fields, "detector": {**good["detector"], "artifact": "vision"}})


def test_golden_pictures(fields):
    fields["artifacts"]["pictures"] = {**GGUF, "file": "golden.npz", "format": "npz"}
    with pytest.raises(ValidationError, match="nothing reads the artifact pictures"):
        Manifest.model_validate(fields)
    fields["golden"] = {"artifact": "pictures", "crop_px": 0.5}
    golden = Manifest.model_validate(fields).golden
    assert golden is not None and (golden.artifact, golden.missed) == ("pictures", 0)


TOLERANCE = {
    "tensors": {"au_probability": {"sqnr_db": 30.0, "max": 0.01}, "logits": {"sqnr_db": -3.0}},
    "au_same": 0.99,
    "expression_same": 1.0,
    "expression_kl": 0.0,
    "intensity_icc": 0.95,
    "no_worse": 0.97,
    "points": 0.5,
    "kl_mean": 0.01,
    "kl_tail": 1.5,
    "same_top": 0.9,
}


def with_tolerance(fields, stated):
    return changed(fields, "artifacts.vision.tolerance", {"eyes": stated})


def test_how_far_an_artifact_may_lie_off(fields):
    stated = Manifest.model_validate(with_tolerance(fields, TOLERANCE))
    eyes = stated.artifacts["vision"].tolerance["eyes"]
    assert eyes.tensors["au_probability"].max == 0.01 and eyes.tensors["logits"].max is None
    none = Manifest.model_validate(with_tolerance(fields, {})).artifacts["vision"].tolerance["eyes"]
    assert none.tensors == {} and none.no_worse is None


SHARES = ("au_same", "expression_same", "intensity_icc", "no_worse", "same_top")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in SHARES for value in (-0.01, 1.01, math.nan)),
        *(
            (name, value)
            for name in sorted(set(TOLERANCE) - {"tensors"})
            for value in (-1, math.inf, "x")
        ),
        ("tensors", {"tokens": {}}),
        ("tensors", {"tokens": {"sqnr_db": math.nan}}),
        ("tensors", {"tokens": {"sqnr_db": 201.0}}),
        ("tensors", {"tokens": {"sqnr_db": 20.0, "max": -0.1}}),
        ("tensors", {"tokens": {"sqnr_db": 20.0, "mean": 0.1}}),
        ("tensors", ["tokens"]),
        ("mood", 1.0),
    ],
)
def test_a_tolerance_that_cannot_be(fields, name, value):
    with pytest.raises(ValidationError, match=f"tolerance.eyes.{name}"):
        Manifest.model_validate(with_tolerance(fields, {**TOLERANCE, name: value}))


FORM = b"""{
 "a": 1,
 "b": [
  "\xc3\xbc"
 ],
 "c": {}
}
"""


def test_the_form_of_the_file():
    assert canonical({"c": {}, "b": ["ü"], "a": 1}) == FORM
    assert canonical(json.loads(FORM)) == FORM


def test_the_digest_is_the_hash_of_the_other_fields():
    expected = hashlib.sha256(FORM).hexdigest()
    assert digest({"b": ["ü"], "digest": "anything", "c": {}, "a": 1}) == expected


def test_no_digest_of_numbers_that_json_does_not_know():
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": math.nan})
