"""The C++ program reads a .pte file through the door that apps use, and finds Python's values."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Of the exporter's own libraries.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

HERE = Path(__file__).parents[1] / "native"
QUESTION = [5, 1, 7]


def module(path):
    """What a file that lies in no package defines."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


doors = module(HERE / "doors.py")


@pytest.fixture(scope="module")
def small():
    """The module small.py."""
    pytest.importorskip("executorch", reason="needs executorch")
    return module(HERE / "small.py")


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    """The program, built with the libraries of the executorch wheel."""
    executorch = pytest.importorskip("executorch", reason="needs executorch's libraries")
    cmake = Path(sys.executable).with_name("cmake")
    if not cmake.is_file():
        pytest.skip("needs CMake 3.28 or newer beside Python (pip install cmake)")
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("native")
    prefix = f"-DCMAKE_PREFIX_PATH={next(iter(executorch.__path__))}"
    for command in (["-S", HERE, "-B", folder, prefix], ["--build", folder]):
        done = subprocess.run([cmake, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in (done.stdout + done.stderr).lower()
    return folder / "face"


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    """`words.pte`, `eye.pte`, and a picture of noise."""
    folder = tmp_path_factory.mktemp("files")
    small.write(folder / "words.pte")
    small.write(folder / "eye.pte", forward=True)
    crop = np.random.default_rng(0).integers(0, 256, small.CROP, dtype=np.uint8)
    crop.tofile(folder / "crop.rgb")
    return folder


def call(face, *words):
    return subprocess.run([face, *map(str, words)], capture_output=True, text=True, timeout=300)


def test_the_answer_is_pythons(face, small, files):
    out = files / "out.f32"
    comma = ",".join(map(str, QUESTION))
    done = call(face, "words", files / "words.pte", files / "crop.rgb", out, comma, 12)
    assert (done.returncode, done.stderr) == (0, "")
    found, tokens = doors.arrays(out, done.stdout)
    crop = np.fromfile(files / "crop.rgb", np.uint8).reshape(small.CROP)
    ask = doors.methods(files / "words.pte")
    seen, logits, answer = doors.greedy(ask, crop, small.BEGIN, QUESTION, len(tokens))
    assert tokens == answer
    assert len(tokens) == 12 or tokens[-1] == small.END
    assert len(set(tokens)) > 1
    for one, wanted in zip(found, [*seen, logits], strict=True):
        assert one.shape == wanted.shape
        np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-4)


def test_another_question_and_another_face_are_answered_otherwise(face, files, small, tmp_path):
    """The values above come from what is given, and not from what lies in memory."""
    (tmp_path / "dark.rgb").write_bytes(bytes(int(np.prod(small.CROP))))
    logits = []
    for crop, question in (
        (files / "crop.rgb", "5,1,7"),
        (files / "crop.rgb", "5,9,7"),
        (tmp_path / "dark.rgb", "5,1,7"),
    ):
        done = call(face, "words", files / "words.pte", crop, tmp_path / "out", question, 1)
        logits.append(doors.arrays(tmp_path / "out", done.stdout)[0][-1])
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    assert np.abs(logits[0] - logits[2]).max() > 1e-3


def test_a_vision_file_gives_its_outputs_in_their_order(face, small, files):
    done = call(face, "vision", files / "eye.pte", files / "crop.rgb", files / "out.f32")
    assert (done.returncode, done.stderr) == (0, "")
    found, tokens = doors.arrays(files / "out.f32", done.stdout)
    crop = np.fromfile(files / "crop.rgb", np.uint8).reshape(small.CROP)
    wanted = doors.methods(files / "eye.pte")("forward", crop)
    assert tokens == [] and [one.shape for one in found] == [(1, 4, small.WIDTH), (1, 20)]
    for one, exact in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, exact, rtol=0, atol=1e-5)


WRONG = [
    ("nothing", [], 2, "usage: face vision"),
    ("another verb", ["look", "eye.pte", "crop.rgb", "out"], 2, "usage: face vision"),
    ("too few", ["words", "words.pte", "crop.rgb", "out", "5"], 2, "usage: face vision"),
    ("no ids", ["words", "words.pte", "crop.rgb", "out", "5,x", "3"], 2, "expected whole numbers"),
    ("an id below 0", ["words", "words.pte", "crop.rgb", "out", "-1", "3"], 2, "whole numbers"),
    ("an empty id", ["words", "words.pte", "crop.rgb", "out", "5,,7", "3"], 2, "whole numbers"),
    ("no tokens", ["words", "words.pte", "crop.rgb", "out", "5", "0"], 2, "how many tokens"),
    ("an unknown id", ["words", "words.pte", "crop.rgb", "out", "24", "3"], 3, "24 is not among"),
    ("a long talk", ["words", "words.pte", "crop.rgb", "out", "5", "99"], 3, "more than 32 tokens"),
    ("no model", ["vision", "none.pte", "crop.rgb", "out"], 3, "none.pte: cannot be read"),
    ("no crop", ["vision", "eye.pte", "none.rgb", "out"], 3, "none.rgb: cannot be read"),
    ("no program", ["vision", "crop.rgb", "crop.rgb", "out"], 3, "not a program of ExecuTorch"),
    ("half a program", ["vision", "half.pte", "crop.rgb", "out"], 3, "not a program of ExecuTorch"),
    ("no words", ["words", "eye.pte", "crop.rgb", "out", "5", "3"], 3, "no method vision_encoder"),
    ("no forward", ["vision", "words.pte", "crop.rgb", "out"], 3, "has no method forward"),
    ("half a crop", ["vision", "eye.pte", "half.rgb", "out"], 3, "21504 bytes instead of 43008"),
    ("no folder", ["vision", "eye.pte", "crop.rgb", "none/out"], 3, "none/out: cannot be written"),
]


@pytest.mark.parametrize(
    ("words", "code", "text"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG]
)
def test_what_is_wrong_is_told_in_one_line(face, files, words, code, text):
    for name in ("eye.pte", "crop.rgb"):
        half = (files / name).read_bytes()
        (files / name.replace("eye", "half").replace("crop", "half")).write_bytes(
            half[: len(half) // 2]
        )
    # A talk that ends by itself is not too long.
    if code == 3 and "more than" in text:
        done = call(face, "words", files / "words.pte", files / "crop.rgb", files / "out", "5", 20)
        assert len(doors.arrays(files / "out", done.stdout)[1]) == 20
    places = [
        str(files / word) if "." in word or "/" in word or word == "out" else word for word in words
    ]
    done = call(face, *places)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("face: ")


def test_a_value_that_is_not_finite_is_told(face, small, files, tmp_path, monkeypatch):
    """An app would else show the numbers, or decode token 0 for ever."""
    before = small.Eye.forward

    def broken(self, crops):
        tokens, chances = before(self, crops)
        return tokens, chances / (crops[0, 0, 0, 0] > 255)

    monkeypatch.setattr(small.Eye, "forward", broken)
    small.write(tmp_path / "broken.pte", forward=True)
    done = call(face, "vision", tmp_path / "broken.pte", files / "crop.rgb", tmp_path / "out")
    assert done.returncode == 5 and "not finite" in done.stderr
    assert not (tmp_path / "out").exists()
