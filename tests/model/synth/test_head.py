"""One head in two forms, and what is said of a broken one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from feallm.model.synth import head as heads
from feallm.runtime.contract.errors import InputError

IDENTITIES = 3  # a folder with all hundred takes a minute to write and read


@pytest.fixture(scope="module")
def folder(toys, tmp_path_factory):
    """The toy head as its publisher would ship it; not to be changed."""
    above = tmp_path_factory.mktemp("publisher")
    toys.write_folder(toys.head(), above / "FaceXModel", identities=IDENTITIES)
    return above


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(heads, "N_IDENTITIES", IDENTITIES)


@pytest.fixture
def changed(toys, tmp_path):
    """Write the compact file with arrays changed; None takes one away."""

    def write(**arrays):
        given = {**toys.compact(toys.head()), **arrays}
        path = tmp_path / "head.npz"
        np.savez(path, **{name: array for name, array in given.items() if array is not None})
        return path

    return write


@pytest.mark.usefixtures("few")
def test_the_compact_file_and_the_publishers_folder_are_one_head(changed, folder, toy_head):
    compact = heads.read(changed(identity=toy_head.identity[:IDENTITIES]))
    shipped = heads.read(folder)
    for name in heads.Head.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(shipped, name), getattr(compact, name))
        assert getattr(shipped, name).dtype == getattr(compact, name).dtype
    assert shipped.digest == compact.digest == toy_head.digest


def test_shapes_may_come_in_any_order(changed, toys, toy_head):
    given = toys.compact(toy_head)
    path = changed(
        expression=np.concatenate([given["expression"][::-1], given["expression"][:1] * 0]),
        expression_names=np.array([*heads.SHAPES[::-1], "PupilDilate_L"]),
    )
    found = heads.read(path)
    np.testing.assert_array_equal(found.expression, toy_head.expression)
    assert found.digest == toy_head.digest


def test_the_digest_forgives_rounding_and_nothing_else(toy_head):
    def of(**arrays):
        return replace(toy_head, **arrays).digest

    assert toy_head.digest == of() and len(toy_head.digest) == 12
    wider = toy_head.mean.copy()
    wider[100] += 4.0
    marks = toy_head.landmarks68.copy()
    marks[30] += 1
    moved = toy_head.expression.copy()
    moved[heads.SHAPES.index("jawOpen"), ::97] += 1.0
    others = {of(mean=wider), of(landmarks68=marks), of(expression=moved)}
    assert len(others | {toy_head.digest}) == 4
    assert of(expression=toy_head.expression * np.float32(1.00001)) == toy_head.digest


@pytest.mark.data
def test_the_real_head(real_head):
    assert real_head.digest == "11510f325123"  # of every pack that was drawn with it
    assert real_head.mean.shape == (heads.N_VERTICES, 3) and len(real_head.identity) == 100
    eyes = real_head.mean[real_head.landmarks68[[36, 45]], 0]
    assert eyes[0] < -4 < 4 < eyes[1]  # +x is the head's own left


def test_triangles_belong_to_the_later_part(toy_head):
    names = list(heads.PARTS)
    for name in ("face", "teeth", "iris_R"):
        start, end = heads.PARTS[name]
        mine = toy_head.triangles[toy_head.part == names.index(name)]
        assert len(mine) and (mine >= start).all() and (mine < end).all()


BAD = {
    "a shape": (
        lambda given: {
            "expression": given["expression"][:-1],
            "expression_names": given["expression_names"][:-1],
        },
        f"no shape named {heads.SHAPES[-1]}",
    ),
    "two shapes": (
        lambda given: {
            "expression": given["expression"][2:],
            "expression_names": given["expression_names"][2:],
        },
        f"no shape named {heads.SHAPES[0]}",
    ),
    "a vertex": (
        lambda given: {"neutral": given["neutral"][:-1]},
        r"neutral is \(26718, 3\), expected \(26719, 3\)",
    ),
    "a mode": (lambda given: {"identity": given["identity"][:-1]}, r"identity is \(99,"),
    "a landmark": (lambda given: {"landmarks68": given["landmarks68"][:-1]}, r"landmarks68 is"),
    "the faces": (lambda given: {"faces": None}, "no array named faces"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_a_compact_file_without(changed, toys, change, message):
    with pytest.raises(InputError, match=message):
        heads.read(changed(**change(toys.compact(toys.head()))))


def test_no_head_at_all(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        heads.read(tmp_path / "nobody.npz")
    with pytest.raises(InputError, match="generic_neutral_mesh.obj: no such shape"):
        heads.read(tmp_path)
    (tmp_path / "text.npz").write_text("not a head")
    with pytest.raises(InputError, match="not a readable .npz"):
        heads.read(tmp_path / "text.npz")


@pytest.fixture
def linked(folder, tmp_path):
    """A copy of the folder whose files may be replaced."""
    for path in (folder / "FaceXModel").iterdir():
        (tmp_path / path.name).hardlink_to(path)

    def replace(name, text):
        (tmp_path / name).unlink()
        if text is not None:
            (tmp_path / name).write_text(text)
        return tmp_path

    return replace


FOLDERS = {
    "a shape too few": ("browDown_L.obj", None, "browDown_L.obj: no such shape"),
    "a vertex too few": ("browDown_L.obj", "v 0 0 0\n" * 26718, "26718 vertices, expected 26719"),
    "a word": ("identity000.obj", "v 0 0 zero\n" * 26719, "a vertex is not three numbers"),
    "no landmarks": ("vertex_indices.json", "{}", "no readable list idx_to_landmark_verts"),
    "a landmark too few": (
        "vertex_indices.json",
        json.dumps({"idx_to_landmark_verts": [1] * 67}),
        "67,.* landmarks, expected 68",
    ),
    "no texture": ("generic_neutral_mesh.obj", "v 0 0 0\nf 1 2 3\n", "not a mesh with texture"),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name, text, message", FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_with(linked, name, text, message):
    with pytest.raises(InputError, match=message):
        heads.read(linked(name, text))
