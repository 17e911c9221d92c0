"""Golden outputs of a tiny network: recorded, read, compared, let travel, and verified against."""

import dataclasses
import errno
import json
import os
import resource

import numpy as np
import pytest

from feallm.calibration import frames
from feallm.export import bundle, labelled, recordings, reference
from feallm.export.faults import moved, pictures
from feallm.export.torch_session import TorchSession
from feallm.export.verify import check
from feallm.model.checkpoint import load
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import BackendError, InputError, LimitError, UsageError
from feallm.runtime.verify import ask, causes, golden, golden_file
from feallm.runtime.verify.trace import unpack


def some(found, count):
    """The first frames."""
    return dataclasses.replace(
        found,
        encoded=found.encoded[:count],
        pictures=found.pictures[:count],
        names=found.names[:count],
        points5=found.points5[:count],
        boxes=found.boxes[:count],
        au_sides=found.au_sides[:count],
        expression=found.expression[:count],
        pose_deg=found.pose_deg[:count],
    )


@pytest.fixture(scope="module")
def few():
    return some(frames.load(), 3)


def record(exported, few, settings=None, **given):
    path, _ = exported
    return reference.record(
        load(path),
        bundle.checkpoint_sha256(path),
        open_bundle(),
        frames=few,
        settings=settings,
        **given,
    )


@pytest.fixture(scope="module")
def recorded(exported, few):
    return record(exported, few)


@pytest.fixture(scope="module")
def written(recorded, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    golden_file.write(recorded, path)
    return path


def test_what_is_recorded_is_what_torch_answers(recorded, exported, few):
    network = load(exported[0]).vision
    exact = ask.outputs(reference.TorchEyes(network), recorded.crops)
    for name, value in exact.items():
        np.testing.assert_allclose(recorded.outputs[name], value, rtol=1e-5, atol=1e-6)
    assert recorded.frames == tuple(few.encoded)
    assert recorded.facts.checkpoint_sha256 == bundle.checkpoint_sha256(exported[0])
    assert recorded.facts.dtype == "float32" and recorded.facts.device == "cpu"
    assert recorded.facts.versions["torch"] and recorded.facts.settings["threads"] == "1"
    assert recorded.facts.sha256 == recorded.pictures_sha256()
    known = np.isfinite(few.au_sides.max(2))
    np.testing.assert_array_equal(recorded.au[known], few.au_sides.max(2)[known])


def test_the_logits_are_those_that_chose_the_answer(recorded, exported):
    """Against one pass over the whole conversation, which shares no code with the session."""
    import torch

    language, words = load(exported[0]).language, recorded.words
    begin = TorchSession(load(exported[0])).begin
    for m, row in enumerate(words.spoken.tolist()):
        with torch.no_grad():
            texts = language.embed(torch.tensor([begin, *words.question, *words.answers[m]]))
            visual = torch.from_numpy(recorded.outputs["tokens"][row])
            whole = torch.cat([texts[:1], visual, texts[1:]])[None]
            exact = language(whole)[0, -len(words.answers[m]) - 1 : -1].numpy()
        part = slice(words.begins[m], words.begins[m + 1])
        np.testing.assert_array_equal(words.top[part, 0], exact.argmax(1))
        found = np.take_along_axis(exact, words.top[part], 1)
        np.testing.assert_allclose(words.logit[part], found, atol=1e-4)
        sums = np.log(np.exp(exact.astype(np.float64)).sum(1))
        np.testing.assert_allclose(words.total[part], sums, atol=1e-4)


def test_known_faults_are_other_answers(recorded):
    right = golden.fingerprint(recorded.outputs)
    assert set(recorded.faults) == set(causes.KNOWN)
    for name, wrong in recorded.faults.items():
        assert wrong.shape == right[: len(wrong)].shape
        assert np.abs(wrong - right[: len(wrong)]).max() > 1e-4, name


def test_faulty_pictures_are_what_their_names_say():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (2, 128, 112, 3), dtype=np.uint8)
    made = pictures(crops)
    np.testing.assert_array_equal(made["bgr"][..., 0], crops[..., 2])
    np.testing.assert_array_equal(made["mirrored"][:, :, 0], crops[:, :, -1])
    dot = np.full((1, 128, 112, 3), 128, np.uint8)
    dot[0, 44:84, 36:76] = 255
    where = {name: np.argwhere(moved(dot, **by)[0, ..., 0] > 200) for name, by in {
        "still": {}, "right": {"right": 0.08}, "down": {"down": 0.08}, "larger": {"scale": 1.08},
    }.items()}  # fmt: skip
    (y, x), middle = where["still"].mean(0), {k: v.mean(0) for k, v in where.items()}
    np.testing.assert_allclose(middle["right"], (y, x + 0.08 * 112), atol=0.6)
    np.testing.assert_allclose(middle["down"], (y + 0.08 * 128, x), atol=0.6)
    assert len(where["larger"]) > len(where["still"])


def test_layers_are_recorded_of_eyes_and_words(recorded):
    assert {layer.name for layer in unpack(recorded.layers, "eyes")} >= {"pixels", "au_head"}
    assert {layer.name for layer in unpack(recorded.layers, "words")} >= {"blocks.0.q", "norm"}


def test_the_file_is_the_same_twice_and_reads_back(recorded, written, tmp_path):
    golden_file.write(recorded, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == written.read_bytes()
    found = golden_file.read(written)
    np.testing.assert_array_equal(found.crops, recorded.crops)
    assert found.words.said == recorded.words.said


def test_float64_agrees_and_another_network_does_not(exported, few, recorded):
    double = record(exported, few, reference.Settings(dtype="float64", threads=1))
    found = recordings.compare(recorded, double)
    assert found.judged
    assert found.passed, [line.what for line in found.lines if not line.passed]
    outputs = {name: value * 1.05 for name, value in double.outputs.items()}
    wrong = recordings.compare(recorded, dataclasses.replace(double, outputs=outputs))
    assert not wrong.passed


def test_other_pictures_cannot_be_compared(recorded, exported, few):
    other = record(exported, some(few, 2), answers=0)
    assert other.words is None
    with pytest.raises(InputError, match="different pictures"):
        recordings.compare(recorded, other)


def test_a_device_that_is_not_there(exported, few):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match="no CUDA device here"):
        record(exported, few, reference.Settings(device="cuda"))


def test_golden_outputs_travel_and_the_bundle_agrees_with_them(tiny, exported, written, tmp_path):
    made = bundle.export(
        exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces(), golden=written
    )
    assert made.file(golden.FILE).read_bytes() == written.read_bytes()
    assert made.manifest.golden.artifact == golden.FILE
    report = check(made, golden_file.read(written))
    eyes, words = report.results
    assert eyes.judged and eyes.passed, eyes.faults
    assert words.judged and words.failure is None
    # Of random weights some tokens are all but tied: which comes first is told by the last bit.
    missed = [x for x in words.lines if not x.passed and "same token first" not in x.what]
    assert not missed


def test_golden_outputs_that_are_too_large_do_not_travel(
    tiny, exported, written, tmp_path, monkeypatch
):
    monkeypatch.setattr(bundle, "MOST_GOLDEN_BYTES", 1000)
    with pytest.raises(LimitError, match="2 MB may travel"):
        bundle.export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces(), golden=written)
    assert list(tmp_path.iterdir()) == []


def test_labelled_faces_come_with_their_labels(tiny, tmp_path):
    images = [tiny.webp(picture) for picture in tiny.pictures(6)]
    au = np.full((6, N_AUS), np.nan)
    au[:, 0] = [0, 1, 2, 3, 4, 5]
    fields = {
        "images": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
        "au": au,
        "expression": np.array([0, 1, 2, -1, 4, 5]),
    }
    np.savez(tmp_path / "faces.npz", **fields)
    found = labelled.read(tmp_path / "faces.npz", 3)
    assert found.crops.shape == (3, 128, 112, 3) and found.name == "faces"
    assert found.expression.tolist() == [0, 2, 5] and found.au[:, 0].tolist() == [0, 2, 5]
    with pytest.raises(InputError, match="neither a data file nor a pack"):
        labelled.read(tmp_path / "nothing.npz")


def test_the_verb_records_and_compares(exported, few, feallm, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "load", lambda: some(few, 2))
    words = ["reference", "record", "--checkpoint", exported[0], "--answers", "1"]
    code, out, _ = feallm(*words, "--out", tmp_path / "a.npz")
    assert code == 0 and "2 faces, 1 answers" in out
    code, _, _ = feallm(*words, "--out", tmp_path / "b.npz", "--no-onednn")
    assert code == 0
    code, out, _ = feallm("reference", "compare", tmp_path / "a.npz", tmp_path / "b.npz", "--json")
    assert code == 0 and json.loads(out)["passed"]
    code, _, err = feallm("reference", "compare", tmp_path / "a.npz", exported[0])
    assert code == 3 and err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_told_before_the_work(feallm, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "record", lambda *_, **__: pytest.fail("it worked first"))
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file" / "a.npz", tmp_path / "no" / "a.npz", tmp_path / ("a" * 252)):
        code, _, err = feallm("reference", "record", "--out", out)
        assert code == 2 and err.count("\n") == 1 and str(out)[:40] in err, err
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, _, err = feallm("reference", "record", "--out", pipe)
    assert code == 2 and "not a file that can be written" in err and pipe.is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe"}


def test_a_full_disk_is_told_before_the_work(feallm, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "record", lambda *_, **__: pytest.fail("it worked first"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as on a disk that fills up
    try:
        code, _, err = feallm("reference", "record", "--out", tmp_path / "a.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 7 and err.count("\n") == 1 and "free some disk space" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "error", "code"),
    [
        ("work", KeyboardInterrupt(), 130),
        ("work", BackendError("no answer"), 5),
        ("file", KeyboardInterrupt(), 130),
        ("file", OSError(errno.ENOSPC, "No space left on device"), 7),
        ("file", PermissionError(errno.EACCES, "Permission denied"), 2),
    ],
)
def test_nothing_stays_of_a_recording_that_fails(
    feallm, recorded, tmp_path, monkeypatch, where, error, code
):
    def fail(*_, **__):
        if where == "file":
            (tmp_path / ".a.npz.partial").write_bytes(b"half")
        raise error

    monkeypatch.setattr(reference, "record", fail if where == "work" else lambda *_, **__: recorded)
    monkeypatch.setattr(golden_file, "write", fail)
    found, _, err = feallm("reference", "record", "--out", tmp_path / "a.npz")
    assert found == code and err.count("\n") <= 1, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--device", "tpu"], 2),
        (["--dtype", "float16"], 2),
        (["--no-frames"], 2),
        (["--checkpoint", "nothing.safetensors"], 3),
        (["--data", "nothing.npz"], 3),
    ],
)
def test_a_wrong_call_is_told_in_a_line(feallm, tmp_path, words, code):
    found, _, err = feallm("reference", "record", "--out", tmp_path / "a.npz", *words)
    assert found == code and err.count("feallm: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_reference_and_no_golden_exclude_one_another(feallm, exported, tmp_path):
    words = ["--checkpoint", exported[0], "--out", tmp_path / "o", "--reference", "x.npz"]
    code, _, err = feallm("export", *words, "--no-golden")
    assert code == UsageError.exit_code and "exclude" in err
