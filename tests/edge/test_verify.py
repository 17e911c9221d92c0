"""`feallm verify`: what a person sees, what a program reads, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from feallm.edge import verify_page
from feallm.runtime.backends import choose, onnx
from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION
from feallm.runtime.contract.manifest import MANIFEST
from feallm.runtime.verify.verdict import Line, Report, Result, Worst

FILES = ("verify.html", "verify.json", "verify.md")


@pytest.fixture(scope="module")
def golden(record, toy_bundle):
    return record.of(toy_bundle, record.crops(8))


@pytest.fixture(scope="module")
def good(record, toy, toy_bundle, golden, tmp_path_factory):
    return record.bundle(toy_bundle, tmp_path_factory.mktemp("good") / "bundle", toy, golden)


@pytest.fixture(scope="module")
def spoilt(record, toy, toy_bundle, golden, tmp_path_factory):
    """Its golden outputs name the AUs and expressions in another order than it answers in."""
    outputs = golden.outputs
    other = {
        AU_PROBABILITY: np.roll(outputs[AU_PROBABILITY], 1, 1),
        EXPRESSION: np.ascontiguousarray(outputs[EXPRESSION][:, ::-1]),
    }
    wrong = replace(golden, outputs={**outputs, **other})
    return record.bundle(toy_bundle, tmp_path_factory.mktemp("bad") / "bundle", toy, wrong)


def one_line(err):
    """The error, which is the last line and the only one that begins so."""
    errors = [line for line in err.splitlines() if line.startswith("feallm: ")]
    assert len(errors) == 1 and err.endswith(f"{errors[0]}\n") and "Traceback" not in err
    return errors[0]


def test_a_bundle_that_agrees(feallm, good):
    code, out, err = feallm("verify", good)
    assert code == 0 and err == "vision: eyes\n"
    assert "CPUExecutionProvider, 1 thread; 8 faces" in out and "s): agrees" in out
    assert "right is what the checkpoint toy (000000000000…) answered in float32 on cpu" in out
    for title in ("Numbers", "Decisions", "Answers"):
        assert re.search(rf"^ *{title} *$", out, re.M)
    assert "DOES NOT" not in out and "likely" not in out
    assert out.endswith("agrees: 1 of 1 compared parts are within the manifest's tolerances\n")


def test_a_bundle_that_does_not(feallm, spoilt):
    code, out, err = feallm("verify", spoilt)
    assert code == 6
    assert "s): DOES NOT AGREE" in out and "likely: the order of the AUs is shifted" in out
    marked = [line for line in out.splitlines() if line.rstrip().endswith("DOES NOT HOLD")]
    assert any("au_probability: SQNR" in line and "≥ 60" in line for line in marked)
    held = [line for line in out.splitlines() if "au_intensity: SQNR" in line]
    assert held and not any("HOLD" in line for line in held), "what holds is not marked"
    line = one_line(err)
    assert line.startswith("feallm: toy does not agree: vision (eyes): ")
    assert "Likely: the order of the AUs is shifted" in line


def test_json_is_one_object_and_nothing_else(feallm, good, spoilt):
    for bundle, passed in ((good, True), (spoilt, False)):
        code, out, _ = feallm("verify", bundle, "--json")
        found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert out.count("\n") == 1 and found["passed"] is passed and code == (0 if passed else 6)
        assert found["results"][0]["provider"] and found["machine"]["packages"]["numpy"]


def test_files(feallm, spoilt, tmp_path):
    out_folder = tmp_path / "new" / "report"
    code, _, err = feallm("verify", spoilt, "--out", out_folder)
    assert code == 6, "it is written all the same"
    assert sorted(path.name for path in out_folder.iterdir()) == sorted(FILES)
    assert "it shows faces" in err
    markdown = (out_folder / "verify.md").read_text()
    assert markdown.startswith("# toy: DOES NOT AGREE\n") and "- Likely: the order of" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len({tuple(row.split("|")[1:3]) for row in rows}) == len(rows), "no two rows alike"
    assert any("**does not hold**" in row for row in rows)
    assert json.loads((out_folder / "verify.json").read_text())["passed"] is False


def test_files_are_whole_or_not_there(feallm, good, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    assert feallm("verify", good, "--out", folder)[0] == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    code, _, err = feallm("verify", good, "--out", folder)
    assert code == 7 and "cannot be written: No space left on device" in one_line(err)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class Page(HTMLParser):
    """What a page would load, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.loads, self.words, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe", "object", "base")
        self.loads += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag in ("table", "ul", "tbody", "body", "html", "h2", "div"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


def read(page):
    found = Page()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def test_the_page_loads_nothing(feallm, spoilt, tmp_path):
    feallm("verify", spoilt, "--out", tmp_path)
    text = (tmp_path / "verify.html").read_text()
    page = read(text)
    assert len(page.loads) == 6 and all(v.startswith("data:image/jpeg;base64,") for v in page.loads)
    assert "://" not in text and "@import" not in text and "url(" not in text
    words = " ".join(page.words)
    assert "DOES NOT AGREE" in words and "Likely:" in words and "not feelings" in words


STRANGE = "<script>alert(1)</script> & \"both\" | `quotes` 'here'\n# no title"


@pytest.fixture
def strange(golden):
    worst = (Worst(0, f"golden {STRANGE}", f"found {STRANGE}", float("nan")),)
    line = Line("tensor", STRANGE, 0.3, 0.2)
    results = (
        Result(STRANGE, "eyes", "onnx", STRANGE, 1, 3, 0.5, (line,), worst, causes=(STRANGE,)),
        Result("b", "words", "llama", "", 1, 3, 0.5, failure=STRANGE),
    )
    machine = {"system": STRANGE, "processor": "", "cores": 2, "python": "3", "packages": {}}
    made = golden.facts.model_dump(mode="json") | {"model": STRANGE, "device": STRANGE}
    return Report(STRANGE, "0" * 64, made, 3, machine, results, {STRANGE: STRANGE})


def test_the_page_says_names_as_they_are(strange, golden):
    page = read(verify_page.page(strange, golden))  # which takes no script
    assert sum("<script>alert(1)</script>" in word for word in page.words) >= 10


def test_markdown_says_no_more_than_names(strange):
    text = verify_page.markdown(strange)
    assert "<script>" not in text and "\n# no title" not in text
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert rows and {row.count("|") for row in rows} == {6}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backend", "coreml"], "no 'coreml' to verify in this bundle (it has onnx, vision)"),
        (["--backend", "detector.onnx"], "no 'detector.onnx' to verify"),
    ],
)
def test_what_is_not_there(feallm, good, words, said):
    code, out, err = feallm("verify", good, *words)
    assert code == 2 and said in one_line(err) and out == ""


def test_out_that_is_no_folder(feallm, good, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        code, text, err = feallm("verify", good, "--out", out)
        assert code == 2 and "not a folder" in one_line(err) and text == ""
    assert file.read_text() == "mine"


@pytest.mark.parametrize("below", ["", "report"])
def test_out_within_the_bundle(feallm, good, below):
    """A bundle with a file more is refused from then on."""
    code, _, err = feallm("verify", good, "--out", good / below)
    assert code == 2 and "lies in the bundle" in one_line(err)
    assert feallm("verify", good)[0] == 0


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="every folder can be written here"
)
def test_out_that_cannot_be_written(feallm, good, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = feallm("verify", good, "--out", tmp_path / "report")
    tmp_path.chmod(0o700)
    assert code == 7 and "cannot be written" in one_line(err)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "no such file"),
        (b"\xff\xd8\xff\xe0 a photo", "not an .npz file"),
        (b"PK\x03\x04 cut off", "not a readable .npz file"),
    ],
)
def test_a_reference_that_cannot_be_read(feallm, good, tmp_path, data, said):
    path = tmp_path / "reference.npz"
    if data is not None:
        path.write_bytes(data)
    code, out, err = feallm("verify", good, "--reference", path)
    assert code == 3 and f"{path}: {said}" in one_line(err) and out == ""
    assert err.count("\n") == 1


def test_a_reference_of_ones_own(feallm, good, spoilt, record, golden, tmp_path):
    """It counts instead of what the bundle carries."""
    path = tmp_path / "reference.npz"
    record.golden_file.write(golden, path)
    assert feallm("verify", spoilt, "--reference", path)[0] == 0


def test_a_reference_of_another_checkpoint_is_told(feallm, good, record, golden, tmp_path):
    facts = golden.facts.model_copy(update={"checkpoint_sha256": "ab" * 32})
    path = tmp_path / "reference.npz"
    record.golden_file.write(replace(golden, facts=facts), path)
    code, _, err = feallm("verify", good, "--reference", path)
    assert code == 0 and "of another checkpoint (abababababab…)" in err
    assert "another checkpoint" not in feallm("verify", good)[2]


def test_a_bundle_without_golden_outputs(feallm, toy_bundle, record, golden, tmp_path):
    code, _, err = feallm("verify", toy_bundle)
    assert code == 4 and "no golden outputs" in one_line(err) and "--reference" in err
    path = tmp_path / "reference.npz"
    record.golden_file.write(golden, path)
    code, out, err = feallm("verify", toy_bundle, "--reference", path)
    assert code == 6, "no tolerance is no agreement"
    assert "not judged: its manifest states no tolerance" in out and "NOT JUDGED: 0 of 0" in out
    assert "nothing could be judged" in one_line(err)


def test_a_bundle_that_is_broken(feallm, good, tmp_path):
    code, _, err = feallm("verify", tmp_path)
    assert code == 4 and MANIFEST in one_line(err)
    code, _, err = feallm("verify", tmp_path / "missing")
    assert code == 4 and err.count("\n") == 1


def test_nothing_that_runs_here(feallm, good, monkeypatch):
    monkeypatch.setattr(choose.onnx, "available", lambda *_: "onnxruntime is not installed")
    code, out, err = feallm("verify", good)
    assert code == 5 and out == ""
    assert "nothing of this bundle runs here: vision: onnxruntime is not installed" in one_line(err)


def test_what_does_not_run_here_is_told(feallm, record, toy, toy_bundle, golden, tmp_path):
    def second(fields):
        folder = tmp_path / "bundle"
        (folder / "gpu.onnx").write_bytes((folder / "vision.onnx").read_bytes())
        record.add(folder, fields, "gpu.onnx", "onnx")
        fields["artifacts"]["gpu.onnx"]["only_on"] = ["tensorrt"]
        fields["vision"].append("gpu.onnx")

    if onnx.available(("tensorrt",)) is None:
        pytest.skip("TensorRT is here")
    folder = record.bundle(toy_bundle, tmp_path / "bundle", toy, golden, second)
    code, out, _ = feallm("verify", folder, "--out", tmp_path / "out")
    assert code == 0 and "not run here: gpu.onnx: " in out and ", 1 not run here" in out
    for name in FILES[::2]:
        assert "Not run here" in (tmp_path / "out" / name).read_text()


def test_excused_faces_are_explained(feallm, record, toy, toy_bundle, golden, tmp_path):
    """One face of eight is below any limit of .999, and passes: a person must see why."""
    expression = golden.outputs[EXPRESSION].copy()
    expression[1] = np.roll(expression[1], 1)

    def loose(fields):
        own = record.EYES.model_copy(update={"tensors": {}, "expression_kl": None})
        fields["artifacts"]["vision"]["tolerance"] = {"eyes": own.model_dump()}

    other = replace(golden, outputs={**golden.outputs, EXPRESSION: expression})
    folder = record.bundle(toy_bundle, tmp_path / "bundle", toy, other, loose)
    code, out, _ = feallm("verify", folder, "--out", tmp_path / "out")
    assert code == 0 and re.search(
        r"same expression first +0.875 +≥ 0.999 \(2 of 8 may differ\)", out
    )
    for name in FILES[::2]:
        assert "holds: 2 of 8 may differ" in (tmp_path / "out" / name).read_text()


def test_trace_tells_that_nothing_is_shown(feallm, good):
    code, out, _ = feallm("verify", good, "--trace")
    assert code == 0 and "no layers" in out
    assert "layer" not in feallm("verify", good)[1]


def test_threads_and_no_frames(feallm, good):
    code, out, _ = feallm("verify", good, "--threads", 2, "--no-frames")
    assert code == 0 and "2 threads" in out


_BARE = """
import sys
for name in ("torch", "onnx", "gguf", "tokenizers", "safetensors", "scipy"):
    sys.modules[name] = None
import socket
def refuse(*_, **__):
    raise AssertionError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.argv = ["feallm", "verify", *sys.argv[1:]]
from feallm.edge.cli import main
main()
"""


def test_neither_torch_nor_network_is_needed(good):
    command = [sys.executable, "-c", _BARE, str(good), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True
