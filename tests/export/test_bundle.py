"""Checkpoint to bundle: all of it or nothing, the same bytes twice, and the verb."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from feallm.export import bundle
from feallm.export.matrix import EXPORTERS
from feallm.model import checkpoint as checkpoints
from feallm.model.checkpoint import load
from feallm.runtime.analyze import Analyzer
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import InputError, LimitError, UsageError, VerificationError
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.manifest import canonical

export = partial(bundle.export, record=False)
"""Golden outputs take longer than all the rest of a tiny network."""


PLAIN = ("--no-measure", "--no-golden")


@pytest.fixture
def taken_over(exported, monkeypatch):
    """Exporters hand out the files that were made once: making them again would show nothing."""
    calls = []

    def make(module, name):
        def copy(job, precision, path):
            calls.append(path.name)
            shutil.copy(exported[1] / name, path)

        monkeypatch.setattr(f"feallm.export.{module}.make", copy)

    make("onnx", "vision.fp32.onnx")
    make("gguf", "language.fp16.gguf")
    return calls


def test_the_manifest_tells_the_checkpoint(tiny, exported):
    path, folder = exported
    opened = open_bundle(folder)
    manifest = opened.manifest
    assert manifest.aus_trained == tiny.TRAINED
    assert manifest.thresholds == dict.fromkeys(tiny.TRAINED, 0.5)
    assert manifest.geometry.crop() == CROP
    assert manifest.training.checkpoint_sha256 == bundle.checkpoint_sha256(path)
    assert manifest.training.seed == 3 and not manifest.intensity_calibrated
    assert manifest.language.visual_tokens == tiny.CONFIG.vision.tokens + 1
    assert manifest.language.context == tiny.CONFIG.language.context
    assert manifest.profile == tiny.PLAN.profile()
    assert sorted(p.name for p in folder.iterdir()) == [
        "detector.onnx",
        "language.fp16.gguf",
        "manifest.json",
        "tokenizer.json",
        "vision.fp32.onnx",
    ]


def test_it_finds_faces_with_a_detector_of_its_own(exported):
    """A phone has no other bundle to borrow one from."""
    own, shipped = open_bundle(exported[1]), open_bundle()
    assert own.manifest.detector.training == shipped.manifest.detector.training
    assert own.file("detector.onnx").read_bytes() == (
        shipped.file(shipped.manifest.detector.artifact).read_bytes()
    )


def test_a_bundle_reads_a_face(tiny, exported):
    with Analyzer(exported[1], detect=False) as analyzer:
        (reading,) = analyzer.read(tiny.crops(1)[0]).readings
    assert [key for key, au in reading.aus.items() if au is not None] == list(tiny.TRAINED)


def test_the_same_checkpoint_gives_the_same_bytes(tiny, exported, tmp_path):
    again = bundle.export(
        exported[0], tmp_path / "again", tiny.PLAN, faces=tiny.faces(), record=False
    )
    assert again.digest == open_bundle(exported[1]).digest
    for file in exported[1].iterdir():
        assert (again.root / file.name).read_bytes() == file.read_bytes(), file.name
    assert oct(again.root.stat().st_mode & 0o777) == "0o755"


def test_an_existing_folder_is_refused(tiny, exported, feallm, tmp_path):
    out = tmp_path / "there"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        export(exported[0], out, tiny.PLAN, faces=tiny.faces())
    code, _, err = feallm("export", "--checkpoint", exported[0], "--out", out)
    assert code == 2 and err.count("\n") == 1 and "exists already" in err
    assert [p.name for p in out.iterdir()] == ["precious"]
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("module", ["onnx", "gguf"])
def test_nothing_is_half_there(tiny, exported, taken_over, tmp_path, monkeypatch, module):
    def fail(job, precision, path):
        path.write_bytes(b"half")
        assert not (tmp_path / "out").exists(), "the bundle is seen before it is whole"
        raise VerificationError("stopped here")

    monkeypatch.setattr(f"feallm.export.{module}.make", fail)
    with pytest.raises(VerificationError, match="stopped here"):
        export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces())
    assert list(tmp_path.iterdir()) == []


def test_no_disk_space_is_told_before_work_begins(
    tiny, exported, taken_over, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("feallm.export.workplace.shutil.disk_usage", lambda path: usage)
    with pytest.raises(LimitError, match=r"0 MB free, \d+ MB are needed"):
        export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces())
    assert taken_over == [] and list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way(tiny, exported, taken_over, tmp_path, monkeypatch):
    def full(job, precision, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("feallm.export.gguf.make", full)
    with pytest.raises(LimitError, match="No space left on device"):
        export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces())
    assert list(tmp_path.iterdir()) == []


def test_what_was_finished_before_a_kill_is_not_made_again(
    tiny, exported, taken_over, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("feallm.export.gguf.make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bundle.export(
                exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces(), record=False
            )
    assert not (tmp_path / "out").exists() and taken_over == ["half-vision.fp32.onnx"]
    made = export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces())
    assert taken_over == ["half-vision.fp32.onnx", "half-language.fp16.gguf"]
    assert made.digest == open_bundle(exported[1]).digest
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def interrupted(job, precision, path):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_other_faces_begin_afresh(tiny, exported, taken_over, tmp_path, monkeypatch):
    """What was made with other ranges must not be taken up."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "feallm.export.gguf.make", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            bundle.export(
                exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces(), record=False
            )
    other = bundle.Faces(tiny.crops(4), tiny.crops(4), "other")
    export(exported[0], tmp_path / "out", tiny.PLAN, faces=other)
    assert taken_over.count("half-vision.fp32.onnx") == 2


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from feallm.export import bundle, gguf
def slow(job, precision, path):
    path.write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(60)
gguf.make = slow
bundle.export(Path(sys.argv[2]), Path(sys.argv[3]), tiny.PLAN, faces=tiny.faces(4), record=False)
"""


def test_kill_dash_nine_leaves_no_bundle_and_the_next_run_succeeds(
    tiny, exported, tmp_path, monkeypatch
):
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", _KILLED, tests, exported[0], tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    with pytest.raises(UsageError, match="another export is writing it"):
        export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces(4))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    # Finished before the kill: it must not be made again.
    monkeypatch.setattr("feallm.export.onnx.make", lambda *_: pytest.fail("made again"))
    made = bundle.export(
        exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces(4), record=False
    )
    assert made.digest
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_bundle_above_its_plans_size_is_refused(tiny, exported, taken_over, tmp_path):
    with pytest.raises(LimitError, match=r"takes \d+\.\d MB, 1 MB at most"):
        plan = tiny.PLAN.model_copy(update={"size_mb": 1})
        export(exported[0], tmp_path / "out", plan, faces=tiny.faces())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_shipped(tiny, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "feallm.export.onnx.export_vision",
        lambda network, path: shutil.copy(exported[1] / "vision.fp32.onnx", path),
    )
    made = load(exported[0])
    made.vision = tiny.vision(seed=9)
    monkeypatch.setattr(bundle, "load", lambda path: made)
    with pytest.raises(VerificationError, match="differs from torch"):
        export(exported[0], tmp_path / "out", tiny.PLAN, faces=tiny.faces())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unwritable(tmp_path):
    """A place below a file: no folder can be made there, whoever asks."""
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "bundle"


def test_a_place_that_cannot_be_written_is_one_line(exported, feallm, unwritable):
    code, _, err = feallm("export", "--checkpoint", exported[0], "--out", unwritable)
    assert code == 2 and err.count("\n") == 1 and "cannot be written" in err


def test_a_checkpoint_without_words_makes_a_bundle_without_words(
    tiny, exported, taken_over, tmp_path, monkeypatch
):
    made = load(exported[0])
    made.language = made.tokenizer = None
    monkeypatch.setattr(bundle, "load", lambda path: made)
    opened = bundle.export(
        exported[0], tmp_path / "eyes", tiny.PLAN, faces=tiny.faces(), record=False
    )
    assert opened.manifest.language is None
    assert sorted(opened.manifest.artifacts) == ["detector.onnx", "vision.fp32.onnx"]
    with Analyzer(opened, detect=False) as analyzer:
        assert "no language model" in analyzer.words_missing


def test_a_changed_field_breaks_the_digest(exported, tmp_path):
    from feallm.runtime.contract.errors import BundleError

    folder = tmp_path / "copy"
    shutil.copytree(exported[1], folder)
    fields = json.loads((folder / "manifest.json").read_text())
    fields["thresholds"]["AU12"] = 0.9
    (folder / "manifest.json").write_bytes(canonical(fields))
    with pytest.raises(BundleError, match="digest"):
        open_bundle(folder)


def test_a_missing_checkpoint_is_one_line(feallm, tmp_path):
    code, _, err = feallm(
        "export", "--checkpoint", tmp_path / "none.safetensors", "--out", tmp_path / "out"
    )
    assert code == 3 and err.count("\n") == 1 and "none.safetensors" in err
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_weight_is_named_at_once(exported, feallm, tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "nano.safetensors"
    for suffix in (".json", ".tokenizer.json"):
        shutil.copy(exported[0].with_suffix(suffix), path.with_suffix(suffix))
    tensors = load_file(exported[0])
    tensors["vision.extra"] = tensors.pop("vision.au_head.bias")
    tensors["vision.au_head.weight"] = tensors["vision.au_head.weight"][:3]
    checkpoints.save_tensors(path, tensors)
    with pytest.raises(InputError):
        load(path)
    code, _, err = feallm("export", "--checkpoint", path, "--out", tmp_path / "out")
    assert code == 3 and err.count("\n") == 1
    for told in ("missing vision.au_head.bias", "unknown vision.extra", "vision.au_head.weight is"):
        assert told in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--profile", "toaster"], "no profile named 'toaster'"),
        (["--profile", "laptop", "--all"], "exclude one another"),
    ],
)
def test_a_profile_that_nobody_knows(exported, feallm, tmp_path, words, told):
    code, _, err = feallm("export", "--checkpoint", exported[0], "--out", tmp_path / "o", *words)
    assert code == 2 and err.count("\n") == 1 and told in err
    assert list(tmp_path.iterdir()) == []


def planned(**fields):
    """A plan's text, with these fields changed."""
    plan = {"name": "x", "memory_mb": 9, "size_mb": 9, "vision": ["vision.fp32.onnx"]}
    return json.dumps(plan | fields)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not readable JSON"),
        ("[]", "plan"),
        ("{}", "Field required"),
        (planned(vision=["eyes.onnx"]), "no exporter makes"),
        (planned(vision=["language.q8_0.gguf"]), "holds no vision"),
        (planned(mood=1), "mood"),
        (planned(size_mb=0), "size_mb"),
        (planned(providers=["npu"]), "providers"),
        (planned(only_on={"vision.fp16.onnx": ["cuda"]}), "not in the plan"),
    ],
)
def test_a_plan_that_cannot_be(exported, feallm, tmp_path, text, told):
    (tmp_path / "plan.json").write_text(text)
    words = ["--plan", tmp_path / "plan.json", "--out", tmp_path / "out"]
    code, _, err = feallm("export", "--checkpoint", exported[0], *words)
    assert code == 3 and err.count("\n") == 1 and told in err and "plan.json" in err
    assert not (tmp_path / "out").exists()


def test_a_plan_of_ones_own(tiny, exported, taken_over, feallm, packed, tmp_path):
    (tmp_path / "plan.json").write_text(tiny.PLAN.model_dump_json())
    words = ["--plan", tmp_path / "plan.json", "--out", tmp_path / "out", "--pack", packed]
    code, out, err = feallm(
        "export",
        "--checkpoint",
        exported[0],
        *words,
        "--name",
        "mine",
        "--no-measure",
        "--no-golden",
    )
    assert code == 0, err
    assert "1 of 2  vision.fp32.onnx" in err and "2 of 2  language.fp16.gguf" in err
    made = open_bundle(tmp_path / "out").manifest
    assert made.name == "feallm-mine" and made.digest in out and made.report is None


def test_what_is_not_installed_is_told_before_work_begins(
    tiny, exported, taken_over, tmp_path, monkeypatch, feallm
):
    monkeypatch.setattr("feallm.export.matrix.find_spec", lambda name: None)
    code, _, err = feallm("export", "--checkpoint", exported[0], "--out", tmp_path / "out")
    assert code == 5 and err.count("\n") == 1 and taken_over == []
    assert "onnx for vision.int8.onnx" in err and "pip install 'feallm-edge[export,words]'" in err
    assert list(tmp_path.iterdir()) == []


def test_every_exporter_names_its_part_precision_and_format():
    for name, one in EXPORTERS.items():
        part, precision, kind = name.split(".")
        assert (precision, kind) == (one.precision, one.format)
        assert part == "feallm" if len(one.parts) > 1 else part == one.parts[0]
