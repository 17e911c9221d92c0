"""`feallm data render`, `bank` and `sheet`: what they write, and one line for what is wrong."""

import sys

import cv2
import numpy as np
import pytest

from feallm.model.data.pack import INDEX
from feallm.model.synth import head as heads
from feallm.model.synth import pack

USAGE, INPUT, BACKEND = 2, 3, 5


@pytest.fixture
def render(feallm, toy_file, grounds_file, tmp_path):
    """Call `feallm data render` for a few faces of the toy head; gives exit code, texts, folder."""
    (tmp_path / "shared" / "backgrounds").mkdir(parents=True)
    (tmp_path / "shared" / "backgrounds" / "backgrounds.npz").hardlink_to(grounds_file)
    out = tmp_path / "pack"

    def call(*more, head=toy_file, n=5):
        given = ["--n", n, "--seed", 1, "--out", out, "--data", tmp_path / "shared"]
        return (*feallm("data", "render", *given, "--head", head, *more), out)

    return call


def one_line(err):
    return err.count("\n") == 1 and "Traceback" not in err


def no_pack(out):
    return not (out / INDEX).exists() and not list(out.glob("*.npz"))


@pytest.mark.usefixtures("make")
def test_a_pack(render):
    code, text, err, out = render("--workers", 1)
    assert (code, err) == (0, "")
    assert text.startswith(f"{out}  5 faces in 1 parts, ")
    assert (out / INDEX).is_file() and (out / "renders-0000.npz").is_file()


@pytest.mark.usefixtures("make")
def test_the_same_call_again_changes_nothing_and_another_is_refused(render):
    render("--workers", 1)
    out = render()[-1]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    code, _, err, _ = render()
    assert (code, err) == (0, "")
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")} == before
    code, _, err, _ = render("--frozen")
    assert code == USAGE and one_line(err) and "holds another pack of renders" in err


@pytest.mark.usefixtures("make")
def test_without_backgrounds_it_says_so(render, tmp_path):
    (tmp_path / "shared" / "backgrounds" / "backgrounds.npz").unlink()
    code, _, err, out = render()
    assert code == 0 and one_line(err) and "every ground is plain" in err
    assert (out / INDEX).is_file()


HEADS = {
    "no such head": (lambda path, given: None, "no such file"),
    "a shape is missing": (
        lambda path, given: np.savez(
            path,
            **given
            | {
                "expression": given["expression"][1:],
                "expression_names": given["expression_names"][1:],
            },
        ),
        f"no shape named {heads.SHAPES[0]}",
    ),
    "a vertex is missing": (
        lambda path, given: np.savez(path, **given | {"neutral": given["neutral"][1:]}),
        "neutral is (26718, 3), expected (26719, 3)",
    ),
    "no archive": (lambda path, given: path.write_bytes(b"no"), "not a readable .npz file"),
}


@pytest.mark.parametrize("write, message", HEADS.values(), ids=HEADS.keys())
def test_a_head_that_cannot_be_used(render, toys, toy_head, tmp_path, write, message):
    write(tmp_path / "head.npz", toys.compact(toy_head))
    code, text, err, out = render(head=tmp_path / "head.npz")
    assert code == INPUT and one_line(err) and message in err and text == ""
    assert not out.exists()


FOLDERS = {
    "a vertex is missing": ("v 0 0 0\n" * 26718, "26718 vertices, expected 26719"),
    "no mesh": ("v 0 0 0\n" * 26719 + "f 1 2 3\n", "not a mesh with texture coordinates"),
    "a shape is missing": ("v 0 0 0\n" * 26719, "identity000.obj: no such shape"),
    "empty": (None, "generic_neutral_mesh.obj: no such shape"),
}


@pytest.mark.parametrize("mesh, message", FOLDERS.values(), ids=FOLDERS.keys())
def test_a_publishers_folder_that_cannot_be_used(render, tmp_path, mesh, message):
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    if mesh is not None:
        (folder / "generic_neutral_mesh.obj").write_text(mesh)
        marks = ", ".join("0" * 68)
        (folder / "vertex_indices.json").write_text(f'{{"idx_to_landmark_verts": [{marks}]}}')
    code, text, err, out = render(head=tmp_path)
    assert code == INPUT and one_line(err) and message in err and text == ""
    assert not out.exists()


def test_without_moderngl(render, monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    code, text, err, out = render()
    assert code == BACKEND and one_line(err) and text == ""
    assert "needs moderngl" in err and "feallm-edge[render]" in err
    assert no_pack(out)


def test_without_opengl(render, monkeypatch):
    moderngl = pytest.importorskip("moderngl", reason="drawing needs moderngl")

    def refuse(**options):
        raise Exception("(standalone)\n eglGetDisplay failed")

    monkeypatch.setattr(moderngl, "create_context", refuse)
    code, text, err, out = render()
    assert code == BACKEND and one_line(err) and text == ""
    assert "no OpenGL without a screen: (standalone) eglGetDisplay failed" in err
    assert "libegl1" in err and no_pack(out)


@pytest.mark.usefixtures("make")
def test_a_full_disk(render, monkeypatch):
    def full(*given, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    code, text, err, out = render()
    assert code == INPUT and one_line(err) and "No space left on device" in err and text == ""
    assert no_pack(out)


@pytest.mark.parametrize("words", [["--n", 0], ["--workers", 0], ["--n", "some"]])
def test_numbers_that_make_no_sense(render, words):
    code, _, err, out = render(*words)
    assert code == USAGE and words[0] in err and not out.exists()


def test_an_out_that_is_a_file(render, tmp_path):
    (tmp_path / "pack").write_text("mine")
    code, _, err, out = render()
    assert code == USAGE and one_line(err) and out.read_text() == "mine"


@pytest.mark.usefixtures("make")
def test_photographs_that_cannot_be_read(render, tmp_path):
    for _ in range(2):
        code, text, err, out = render("--photos", tmp_path / "bank.npz")
        assert code == INPUT and one_line(err) and text == ""
        assert "bank.npz: no" in err and not out.exists()
        np.savez(tmp_path / "bank.npz", images=np.zeros(1, np.uint8))


def test_a_bank_without_the_data(feallm, tmp_path):
    code, _, err = feallm("data", "bank", "--data", tmp_path, "--out", tmp_path / "bank.npz")
    assert code == INPUT and one_line(err) and "train.npz: no such file" in err
    assert not (tmp_path / "bank.npz").exists()


def test_a_sheet_of_renders(feallm, toy_pack, tmp_path):
    out = tmp_path / "sheet.png"
    code, _, err = feallm("data", "sheet", "--pack", toy_pack, "--out", out)
    assert (code, err) == (0, "")
    drawn = cv2.imread(str(out))
    assert drawn.shape == (8 * (128 + 16), 8 * 112, 3)
    tiles = drawn.reshape(8, 144, 8, 112, 3).std((1, 3, 4)).ravel()
    assert (tiles > 1).sum() == 14  # the others are blank


def test_a_sheet_of_a_half_made_pack(feallm, toy_pack, tmp_path):
    (tmp_path / pack.PLAN).write_bytes((toy_pack / pack.PLAN).read_bytes())
    code, _, err = feallm("data", "sheet", "--pack", tmp_path, "--out", tmp_path / "sheet.png")
    assert code == INPUT and one_line(err) and not (tmp_path / "sheet.png").exists()
