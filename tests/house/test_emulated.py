"""Files of the shipped checkpoint on an emulated aarch64 board: ONNX through ONNX Runtime, .pte
through the C++ program. Each kind of file has a bar of its own, from what was measured there.

`make test-aarch64`: ten minutes on two cores, most of it for making the files.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
COUNT = 6  # faces: a second each and file
TOKENS_WANTED = 12

# Largest distance from float torch of probabilities (AUs, expression), and of visual tokens.
# float16: ONNX Runtime also adds up in it there; on x86 it is .0008 and .002.
ONNX_BARS = {"fp32": (1e-4, 1e-4), "fp16": (1e-2, 6e-2), "int8": (0.08, 0.6)}
# Largest distance from the same file on x86.
PTE_BARS = {"fp32": (1e-4, 1e-4), "int8": (2e-2, 0.2)}
LOGITS_BAR = {"fp32": 1e-3, "8da8w": 0.3, "8da4w": 0.5}


def module(path):
    """What a file that lies in no package defines."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found  # dataclasses in it look for their module
    spec.loader.exec_module(found)
    return found


aarch64 = module(ROOT / "tools" / "aarch64.py")
doors = module(ROOT / "tests" / "native" / "doors.py")


@pytest.mark.parametrize("name", ["", "max"])
def test_the_processor_is_always_named(tmp_path, name):
    """The one that qemu takes unasked answers int8 files wrongly, by .49 in an AU's probability."""
    with pytest.raises(ValueError, match="name a processor"):
        aarch64.Board(tmp_path, name)
    board = aarch64.Board(tmp_path)
    for command in (board.python("script.py"), board.face("vision")):
        place = command.index("-cpu")
        assert command[place + 1] == "cortex-a76"
        assert any("qemu" in word for word in command[:place])


def test_what_a_machine_lacks_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(aarch64, "_found", lambda name: "" if "qemu" in name else f"/bin/{name}")
    with pytest.raises(aarch64.MissingError, match="apt install qemu-user-static"):
        aarch64.prepare(tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_a_board_that_cannot_be_fetched_is_told_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(aarch64, "_found", lambda name: f"/bin/{name}")
    monkeypatch.setattr(aarch64, "version", lambda name: "1.0")
    tried = []

    def fail(command, **_):
        tried.append(command)
        return subprocess.CompletedProcess(command, 1, "", "E: one\nE: no network\n")

    monkeypatch.setattr(aarch64.subprocess, "run", fail)
    (tmp_path / "cmake").touch()
    monkeypatch.setattr(aarch64.sys, "executable", str(tmp_path / "python"))
    for _ in range(2):
        with pytest.raises(aarch64.MissingError, match="cannot be fetched: E: no network$"):
            aarch64.prepare(tmp_path / "board")
    assert len(tried) == 2


@pytest.fixture(scope="module")
def board():
    try:
        return aarch64.prepare(Path(sys.prefix) / "aarch64")
    except aarch64.MissingError as error:
        pytest.skip(f"no aarch64 board: {error}")


@pytest.fixture(scope="module")
def job(board, tmp_path_factory):
    """Of the shipped checkpoint."""
    import torch

    from feallm.calibration import faces
    from feallm.export.job import Job
    from feallm.model.checkpoint import load

    torch.set_num_threads(1)
    held = faces.load()
    checkpoint = load(ROOT / "model" / "checkpoints" / "edge.safetensors")
    folder = tmp_path_factory.mktemp("scratch")
    return Job(checkpoint, held.crops[::4], held.held_out[:: len(held.held_out) // 32], folder)


@pytest.fixture(scope="module")
def crops(job):
    return job.held_out[:COUNT]


@pytest.fixture(scope="module")
def made(job):
    """The path of a file of the matrix, made when it is asked for."""
    from feallm.export.matrix import EXPORTERS

    def make(name):
        path = job.scratch / f"made.{name}"
        if not path.exists():
            EXPORTERS[name].make(job, path)
        return path

    return make


@pytest.fixture(scope="module")
def exact(job, crops):
    from feallm.export.run import float_answers

    return float_answers(job.checkpoint.vision, crops)


@pytest.fixture
def inside(board, tmp_path):
    """A folder of the board, and its name there."""
    folder = board.root / "tmp" / tmp_path.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder, f"/tmp/{folder.name}"
    shutil.rmtree(folder)


def apart(found, exact):
    """Largest distances of probabilities, and of visual tokens. Sides in no order: where both are
    nearly as strong, the last bit decides which of them comes first."""
    chances = ("au_probability", "expression")
    gaps = [np.abs(found[name] - exact[name]).max() for name in chances]
    sides = [np.sort(values["au_side_probability"], 2) for values in (found, exact)]
    gaps.append(np.abs(sides[0] - sides[1]).max())
    return float(max(gaps)), float(np.abs(found["tokens"] - exact["tokens"]).max())


@pytest.mark.emulated
@pytest.mark.filterwarnings("ignore")  # of the exporters' own libraries
@pytest.mark.parametrize("precision", list(ONNX_BARS))
def test_onnx_files_answer_as_torch_does(board, inside, made, crops, exact, precision, capsys):
    folder, name = inside
    shutil.copy(made(f"vision.{precision}.onnx"), folder / "vision.onnx")
    shutil.copy(ROOT / "tests" / "native" / "onnx_answers.py", folder)
    np.save(folder / "crops.npy", crops)
    command = board.python(f"{name}/onnx_answers.py", name)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "vision.npz") as held:
        chances, tokens = apart(held, exact)
        alike = (held["expression"].argmax(1) == exact["expression"].argmax(1)).mean()
    told(capsys, f"vision.{precision}.onnx", chances, tokens)
    assert chances <= ONNX_BARS[precision][0] and tokens <= ONNX_BARS[precision][1]
    assert alike >= 1 - 1 / len(crops)


def told(capsys, name, chances, tokens):
    """A line of the figures, seen also where the test passes."""
    with capsys.disabled():
        print(f"\n{name} on {aarch64.CPU}: probabilities {chances:.1e}, tokens {tokens:.1e}")


def face(board, out, *words):
    done = subprocess.run(board.face(*map(str, words)), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return doors.arrays(out, done.stdout)


@pytest.mark.emulated
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", list(PTE_BARS))
def test_pte_files_answer_as_on_x86(board, made, job, crops, tmp_path, precision, capsys):
    from feallm.export.onnx import outputs_of
    from feallm.export.run import answers

    path, names = made(f"vision.{precision}.pte"), outputs_of(job.checkpoint.vision)
    rows = []
    for crop in crops:
        crop.tofile(tmp_path / "crop.rgb")
        out = tmp_path / "out.f32"
        values, _ = face(board, out, "vision", path, tmp_path / "crop.rgb", out)
        rows.append(dict(zip(names, values, strict=True)))
    found = {name: np.concatenate([row[name] for row in rows]) for name in names}
    chances, tokens = apart(found, answers(path, crops))
    told(capsys, path.name, chances, tokens)
    assert chances <= PTE_BARS[precision][0] and tokens <= PTE_BARS[precision][1]


@pytest.mark.emulated
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", list(LOGITS_BAR))
def test_photo_to_words_answers_as_on_x86(board, made, job, crops, tmp_path, precision, capsys):
    from tokenizers import Tokenizer

    from feallm.runtime.language.wording import QUESTIONS

    path = made(f"feallm.{precision}.pte")
    tokenizer = Tokenizer.from_str(job.checkpoint.tokenizer)
    question = tokenizer.encode(QUESTIONS[0] + "\n").ids
    ask = doors.methods(path)
    begin = tokenizer.token_to_id("<bos>")
    for crop in crops[:2]:
        crop.tofile(tmp_path / "crop.rgb")
        words = ["words", path, tmp_path / "crop.rgb", tmp_path / "out.f32"]
        words += [",".join(map(str, question)), TOKENS_WANTED]
        values, tokens = face(board, tmp_path / "out.f32", *words)
        seen, logits, answer = doors.greedy(ask, crop[None], begin, question, len(tokens))
        assert len(tokens) == TOKENS_WANTED
        assert tokenizer.decode(tokens).startswith("AUs: ")
        # Where a tie fell otherwise, what follows answers another text.
        alike = [one == two for one, two in zip(tokens, answer, strict=True)]
        until = (alike + [False]).index(False) + 1
        gap = float(np.abs(values[-1][:until] - logits[:until]).max())
        with capsys.disabled():
            print(f"\n{path.name} on {aarch64.CPU}: logits {gap:.1e} from x86")
        assert gap <= LOGITS_BAR[precision]
        for one, wanted in zip(values, [*seen, logits], strict=True):
            assert one.shape == wanted.shape
