"""One frame through all of it: what is painted is what is read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from feallm.runtime.analyze import Analyzer, open_detector
from feallm.runtime.backends import llama
from feallm.runtime.backends.base import VISION_OUTPUTS
from feallm.runtime.backends.replay import ReplayVision
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract import jsonl
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import BackendError, BundleError, InputError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Face, Frame
from feallm.runtime.follow import Follower
from feallm.runtime.vision.detect import Search

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))
HEIGHT, WIDTH = 128, 112


@pytest.fixture(scope="module")
def analyzer(toy_bundle):
    """Of face crops, without words."""
    with Analyzer(toy_bundle, detect=False) as analyzer:
        yield analyzer


@pytest.fixture
def replay():
    """An even answer to everything."""
    return ReplayVision(
        {
            "au_probability": np.full(20, 0.45, np.float32),
            "au_intensity": np.ones((20, 2), np.float32),
            "expression": np.full(8, 0.125, np.float32),
            "tokens": np.zeros((17, 256), np.float32),
        }
    )


def painted(colour, height=HEIGHT, width=WIDTH):
    return np.full((height, width, 3), colour, np.uint8)


def boxes(count, side=20.0):
    """Faces in a row, with tracks that are not their places."""
    return [Face((k * side, 0.0, (k + 1) * side, side), None, 0.9, 100 + k) for k in range(count)]


@pytest.mark.parametrize(
    ("colour", "top", "present"),
    [
        ("BRIGHT", "happiness", ("AU6", "AU12", "AU25")),
        ("DARK", "neutral", ()),
        ("RED", "anger", ("AU4",)),
        ("BLUE", "sadness", ("AU1", "AU15")),
    ],
)
def test_what_is_painted_is_read(analyzer, toy, colour, top, present):
    (reading,) = analyzer.read(painted(getattr(toy, colour))).readings
    assert reading.expression.top == top
    assert reading.present == present
    assert reading.explanation is None
    assert math.isclose(sum(reading.expression.scores.values()), 1, abs_tol=1e-5)


def test_red_and_blue_are_not_swapped(analyzer, toy):
    picture = painted(toy.RED)
    assert analyzer.read(picture).readings[0].expression.top == "anger"
    assert analyzer.read(picture[:, :, ::-1]).readings[0].expression.top == "sadness"


def test_the_report_says_what_the_frame_is(analyzer, toy):
    report = analyzer.read(Frame(painted(toy.DARK), "clip.mp4", 7, 0.28))
    assert (report.source, report.index, report.time_s) == ("clip.mp4", 7, 0.28)
    assert report.bundle == analyzer.bundle.digest
    assert set(report.timings_ms) == {"detect", "crop", "vision", "words"}
    assert all(value >= 0 for value in report.timings_ms.values())
    assert analyzer.read(painted(toy.DARK)).source == "picture"


def test_without_finding_the_whole_picture_is_one_face(analyzer):
    (face,) = analyzer.find(Frame(painted(0, 60, 80), "picture"))
    assert face == Face((0.0, 0.0, 80.0, 60.0), None, 1.0)


def test_the_points_of_a_picture_that_is_a_crop_are_the_bundles(toy_bundle, replay):
    bundle = open_bundle(toy_bundle)
    shares = ((0.2, 0.3), (0.8, 0.3), (0.5, 0.5), (0.3, 0.8), (0.7, 0.8))
    preprocessing = bundle.manifest.preprocessing.model_copy(update={"mean_points": shares})
    manifest = bundle.manifest.model_copy(update={"preprocessing": preprocessing})
    frame = Frame(painted(0, 100, 100), "picture")
    crops = []
    for each in (bundle, type(bundle)(bundle.root, manifest)):
        with Analyzer(each, detect=False, vision=replay) as analyzer:
            crops.append(analyzer.crop(frame, analyzer.find(frame)[0]).to_crop)
    eyes = crops[1][:, :2] @ np.array([[20, 80], [30, 30]]) + crops[1][:, 2:]
    assert np.isclose(eyes[1, 0], eyes[1, 1])
    assert crops[1][0, 0] < crops[0][0, 0]  # eyes further apart: a smaller scale


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_subjects_left_is_the_right_of_the_picture(analyzer, toy, side):
    picture = painted(toy.DARK)
    half = np.s_[:, WIDTH // 2 :] if side == "left" else np.s_[:, : WIDTH // 2]
    picture[half] = toy.BRIGHT
    (reading,) = analyzer.read(picture).readings
    au = reading.aus["AU12"]
    assert (au.left > au.right + 3) == (side == "left")
    (mirrored,) = analyzer.read(picture[:, ::-1]).readings
    assert abs(mirrored.aus["AU12"].left - au.right) < 0.2
    assert abs(mirrored.aus["AU12"].right - au.left) < 0.2


def test_a_face_that_must_be_found(toy_bundle, scene):
    with Analyzer(toy_bundle, words=False) as analyzer:
        report = analyzer.read(scene(224, 272, (15, 10, 160)))
        assert len(report.readings) == 1
        x0, _, x1, _ = report.readings[0].box
        assert 20 < x0 < x1 < 190
        assert analyzer.read(painted(90)).readings == ()


@pytest.mark.parametrize("shape", [(1, 1), (20000, 10), (10, 20000)])
def test_no_face_in_strange_pictures(toy_bundle, shape):
    with Analyzer(toy_bundle, words=False) as analyzer:
        report = analyzer.read(painted(90, *shape))
    assert report.readings == ()
    (row,) = jsonl.rows(report, calibrated=False)
    assert row["track"] is None and row["aus"] is None


def test_given_faces_are_read_in_their_order(analyzer, toy):
    picture = painted(toy.DARK, 40, 120)
    picture[:, 40:80] = toy.BRIGHT
    report = analyzer.read(picture, faces=boxes(3, 40.0))
    assert [r.track for r in report.readings] == [100, 101, 102]
    assert [r.expression.top for r in report.readings] == ["neutral", "happiness", "neutral"]
    assert [r.box[0] for r in report.readings] == [0, 40, 80]
    assert {r.score for r in report.readings} == {0.9}
    assert report.timings_ms["detect"] == 0
    assert analyzer.read(picture, faces=[]).readings == ()


def test_a_crowd_is_read_in_parts_that_join(toy_bundle, replay, toy):
    with Analyzer(toy_bundle, detect=False, vision=replay) as analyzer:
        report = analyzer.read(painted(0, 20, 800), faces=boxes(40))
    assert [r.track for r in report.readings] == list(range(100, 140))
    assert [len(crops) for crops in replay.seen] == [16, 16, 8]
    assert {crops.shape[1:] for crops in replay.seen} == {(HEIGHT, WIDTH, 3)}


def test_a_crowd_gives_what_each_gives_alone(analyzer):
    rng = np.random.default_rng(0)
    picture = np.repeat(rng.integers(0, 256, (1, 40, 3), dtype=np.uint8), 20, axis=1)
    picture = np.repeat(picture, 20, axis=0)
    faces = boxes(40)
    together = analyzer.read(picture, faces=faces).readings
    alone = [analyzer.read(picture, faces=[face]).readings[0] for face in faces]
    for one, other in zip(together, alone, strict=True):
        assert one.track == other.track and one.present == other.present
        scores = [list(r.expression.scores.values()) for r in (one, other)]
        assert np.allclose(*scores, atol=1e-3)  # sums over a crop depend on the batch's layout


@pytest.mark.parametrize(
    ("explain", "explained"),
    [
        (False, []),
        (True, [100, 101, 102]),
        ({101}, [101]),
        ([102, 100], [100, 102]),
        (set(), []),
        ({7}, []),
    ],
)
def test_words_for_chosen_tracks(analyzer, explain, explained):
    report = analyzer.read(painted(0, 20, 60), faces=boxes(3), explain=explain)
    assert [r.track for r in report.readings if r.explanation is not None] == explained


def test_the_template_speaks_where_there_is_no_language_model(analyzer, toy):
    assert analyzer.words_missing is not None
    (reading,) = analyzer.read(painted(toy.BRIGHT), explain=True).readings
    explanation = reading.explanation
    assert explanation.source == "template"
    assert explanation.aus == ("AU6", "AU12", "AU25")
    assert "happiness" in explanation.text
    assert explanation.why_template == analyzer.words_missing


@pytest.mark.parametrize(
    ("words", "reason"), [(True, "no language model"), (False, "not asked for")]
)
def test_why_there_are_no_words(toy_bundle, words, reason):
    with Analyzer(toy_bundle, detect=False, words=words) as analyzer:
        assert reason in analyzer.words_missing


def test_words_without_the_library(toy_bundle_with_words, toy, monkeypatch):
    monkeypatch.setattr(llama, "available", lambda: llama.MISSING)
    with Analyzer(toy_bundle_with_words, detect=False) as analyzer:
        (reading,) = analyzer.read(painted(toy.BRIGHT), explain=True).readings
    assert reading.explanation.source == "template"
    assert "feallm-edge[words]" in reading.explanation.why_template


@needs_llama
def test_words_of_a_random_model_are_checked(toy_bundle_with_words, toy):
    with Analyzer(toy_bundle_with_words, detect=False) as analyzer:
        assert analyzer.words_missing is None
        assert analyzer.language is None  # opened when first asked
        report = analyzer.read(painted(toy.BRIGHT), explain=True)
        explanation = report.readings[0].explanation
        assert report.timings_ms["words"] > 0
        assert analyzer.language is not None
    assert explanation.source == "template" and explanation.why_template
    assert analyzer.language is None


@needs_llama
def test_a_language_model_that_cannot_be_opened(toy_bundle_with_words, toy, monkeypatch):
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise BackendError("llama.cpp cannot load it")

    monkeypatch.setattr("feallm.runtime.backends.llama.LlamaSession", refuse)
    with Analyzer(toy_bundle_with_words, detect=False) as analyzer:
        for _ in range(3):
            (reading,) = analyzer.read(painted(toy.BRIGHT), explain=True).readings
            assert reading.explanation.why_template == "llama.cpp cannot load it"
    assert len(calls) == 1  # not tried again for each face


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((10, 10, 3), np.int64),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 0, 3), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
        [[[0, 0, 0]]],
        "portrait.jpg",
        None,
    ],
    ids=lambda p: f"{p.dtype}{p.shape}" if isinstance(p, np.ndarray) else type(p).__name__,
)
def test_other_things_than_rgb_pictures_are_refused(analyzer, picture):
    with pytest.raises(InputError, match=r"expected an RGB picture uint8 \(H, W, 3\)"):
        analyzer.read(picture)
    with pytest.raises(InputError):
        analyzer.read(Frame(picture, "clip.mp4"))


@pytest.mark.parametrize(
    "face",
    [
        Face((5.0, 5.0, 5.0, 5.0), None, 1.0),
        Face((0.0, 0.0, math.nan, 5.0), None, 1.0),
        Face((0.0, 0.0, 9.0, 9.0), np.zeros((5, 2)), 1.0),
        Face((0.0, 0.0, 9.0, 9.0), np.full((5, 2), np.inf), 1.0),
        Face((0.0, 0.0, 9.0, 9.0), np.zeros((4, 2)), 1.0),
    ],
    ids=["empty box", "nan box", "one point", "no points", "four points"],
)
def test_faces_that_are_nowhere(analyzer, toy, face):
    with pytest.raises(InputError, match="clip.mp4: no crop of the face") as caught:
        analyzer.read(Frame(painted(toy.DARK), "clip.mp4"), faces=[face])
    assert "\n" not in caught.value.line()


def test_a_network_that_answers_nonsense(toy_bundle, replay):
    replay._outputs["expression"][3] = np.nan
    with Analyzer(toy_bundle, detect=False, vision=replay) as analyzer:
        with pytest.raises(BackendError, match="not finite in expression"):
            analyzer.read(painted(0))


def test_outputs_are_those_of_the_contract(analyzer):
    outputs = analyzer.outputs(painted(0)[None])
    assert set(outputs) == set(VISION_OUTPUTS)
    assert outputs["au_intensity"][0, AU_INDEX["AU12"]].shape == (2,)


def test_a_bundle_that_is_not_there(tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        Analyzer(tmp_path)


def test_closing_twice(toy_bundle, toy):
    analyzer = Analyzer(toy_bundle, detect=False)
    with analyzer:
        pass
    analyzer.close()
    with pytest.raises(BackendError, match="closed"):
        analyzer.read(painted(toy.DARK))


def test_rows_of_a_report(analyzer, toy):
    report = analyzer.read(painted(toy.BRIGHT), explain=True)
    (row,) = jsonl.rows(report, calibrated=analyzer.bundle.manifest.intensity_calibrated)
    assert json.loads(jsonl.dumps(row)) == row
    assert row["box"] == [0, 0, WIDTH, HEIGHT]
    assert row["aus"]["AU12"]["present"] and row["aus"]["AU2"] is None
    assert row["explanation"]["source"] == "template"
    assert row["bundle"] == analyzer.bundle.digest


def test_action_units_alone(toy_bundle, toy):
    """Where naming an emotion is not allowed, no word of it is in the row or the text."""
    with Analyzer(toy_bundle, detect=False, expression=False) as analyzer:
        report = analyzer.read(painted(toy.BRIGHT), explain=True)
    (row,) = jsonl.rows(report, calibrated=False)
    assert row["expression"] is None
    assert row["explanation"]["aus"] == ["AU6", "AU12", "AU25"]
    assert "AUs: AU6 cheek raiser" in row["explanation"]["text"]
    line = jsonl.dumps(row)
    assert not any(word in line for word in EXPRESSIONS)
    assert "xpression:" not in row["explanation"]["text"]
    assert jsonl.flat(row)["expression"] == "" == jsonl.flat(row)["happiness"]


# ---- which detector is asked, and how


def with_detector(bundle, **stated):
    """The bundle as if its manifest said this of its detector."""
    detector = open_bundle().manifest.detector
    detector = detector and detector.model_copy(update=stated)
    return type(bundle)(bundle.root, bundle.manifest.model_copy(update={"detector": detector}))


def test_the_detector_is_asked_as_its_bundle_says():
    bundle = with_detector(open_bundle(), score=0.7, overlap=0.2, still_px=512, video_px=256)
    assert open_detector(bundle).search == Search(0.7, 0.2, 512, 256)
    assert open_detector(bundle, search_px=96).search == Search(0.7, 0.2, 96, 96)


def test_a_bundle_without_a_detector_takes_the_shipped_one(toy_bundle):
    bundle = open_bundle(toy_bundle)
    assert bundle.manifest.detector is None
    assert open_detector(bundle).search == open_detector(open_bundle()).search


def test_a_file_of_somebody_elses_takes_the_place_of_the_bundles(tmp_path, scene):
    shipped = open_bundle()
    copy = tmp_path / "theirs.onnx"
    copy.write_bytes(shipped.file(shipped.manifest.detector.artifact).read_bytes())
    frame = Frame(scene(240, 320, (90, 60, 100)), "picture", still=True)
    found = [open_detector(shipped, file).find(frame) for file in (copy, None)]
    assert found[0] and [face.box for face in found[0]] == [face.box for face in found[1]]
    with pytest.raises(InputError, match="no such detector file"):
        Analyzer(detector=tmp_path / "missing.onnx")


def test_a_video_of_face_crops_keeps_the_whole_picture(scene):
    """Without finding, each frame is one face: its box is the frame, whatever was read off it."""
    crop = scene(200, 180, (30, 30, 150))
    with Analyzer(detect=False, words=False) as analyzer:
        follower = Follower(analyzer)
        for k in range(4):
            (reading,) = follower.read(Frame(crop, "clip.mp4", k, k / 25)).readings
            assert reading.box == (0, 0, 180, 200) and reading.place is not None
