"""A bundle is used only when every byte of it is what its manifest says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from feallm.runtime.bundle.open import SHIPPED, open_bundle, shipped_path
from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import MANIFEST


@pytest.fixture
def copy(toy_bundle, tmp_path):
    """A bundle that may be damaged."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


@pytest.fixture
def edit(copy, toy):
    """Change the manifest's fields and sign it anew, so that only the change itself is wrong."""

    def change(**fields):
        toy.sign(copy, {**json.loads((copy / MANIFEST).read_text()), **fields})

    return change


def refusal(path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    assert caught.value.exit_code == 4
    line = caught.value.line()
    assert line and "\n" not in line
    return line


def test_a_whole_bundle(copy):
    bundle = open_bundle(copy)
    assert bundle.root == copy
    assert bundle.file("vision") == copy / "vision.onnx"
    assert bundle.digest == json.loads((copy / MANIFEST).read_text())["digest"]
    assert bundle.manifest.geometry.crop().width_px == 112
    assert bundle.manifest.language is None


def test_a_bundle_by_its_path_in_words(copy):
    assert open_bundle(str(copy)).digest == open_bundle(copy).digest


def test_an_artifact_that_is_not_there(copy):
    with pytest.raises(BundleError, match=r"no artifact named 'language'") as caught:
        open_bundle(copy).file("language")
    assert "it has vision" in caught.value.line()


def test_the_shipped_bundle_lies_in_the_package():
    import feallm.runtime.bundle

    assert shipped_path().parent == Path(feallm.runtime.bundle.__path__[0])


def test_the_shipped_bundle_opens():
    if not shipped_path().is_dir():
        pytest.skip("this checkout ships no bundle yet")
    bundle = open_bundle()
    assert bundle.root == shipped_path()
    assert sum(path.stat().st_size for path in bundle.root.iterdir()) <= 12_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_by_its_name(name, tmp_path, monkeypatch):
    if not shipped_path(name).is_dir():
        pytest.skip("this checkout ships no bundle yet")
    monkeypatch.chdir(tmp_path)
    for given in (name, Path(name)):
        assert open_bundle(given).root == shipped_path(name)
    assert shipped_path() == shipped_path(SHIPPED[0])
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(tmp_path / name)  # a name is no part of a path


def test_a_bundle_of_a_shipped_ones_name_comes_first(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED[0]).mkdir()  # no bundle: the project's own root has such a folder
    assert open_bundle(SHIPPED[0]).root == shipped_path()
    (tmp_path / SHIPPED[0]).rmdir()
    copy.rename(tmp_path / SHIPPED[0])
    bundle = open_bundle(SHIPPED[0])
    assert bundle.root == Path(SHIPPED[0]) and bundle.manifest.name == "toy"


def test_names_that_are_not_shipped_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "not a bundle" in refusal("huge")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def grown(path):
    path.write_bytes(path.read_bytes() + b"\0")


def gone(path):
    path.unlink()


def renamed(path):
    path.rename(path.with_suffix(".onnx2"))


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flipped, "the file was changed or damaged"),
        (cut, "bytes instead of"),
        (grown, "bytes instead of"),
        (gone, "artifact 'vision' is missing"),
        (renamed, "artifact 'vision' is missing"),
        (folder, "0 bytes instead of"),
    ],
)
def test_a_damaged_artifact(copy, damage, words):
    damage(copy / "vision.onnx")
    line = refusal(copy)
    assert words in line and "vision.onnx" in line


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"\xff\xfe{}", "not readable JSON"),
        (b"[" * 200_000, "not readable JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b"{}", "written in schema None"),
        (b'{"schema_version": 1}', "written in schema 1; this version reads 2"),
        (b'{"schema_version": "2"}', "written in schema '2'"),
        (b'{"schema_version": 2}', "name: Field required"),
    ],
    ids=["empty", "cut", "utf16", "deep", "list", "null", "object", "older", "text", "bare"],
)
def test_something_else_than_a_manifest(copy, data, words):
    (copy / MANIFEST).write_bytes(data)
    assert words in refusal(copy)


@pytest.mark.parametrize(
    "path",
    ["nothing/here", "a\0b", "bundle/vision.onnx", "bundle/.."],
    ids=["missing", "zero", "a file", "a folder without"],
)
def test_something_else_than_a_bundle(copy, path):
    assert "not a bundle" in refusal(copy.parent / path)


def test_a_path_that_is_too_long(copy):
    refusal(copy.parent / ("x" * 300))


@pytest.mark.parametrize("name", [MANIFEST, "vision.onnx"])
def test_a_file_that_may_not_be_read(copy, monkeypatch, name):
    """Told by the call itself, since root may read everything."""
    read = Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in refusal(copy)


@pytest.mark.parametrize("damage", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_folder_that_does_not_answer(copy, monkeypatch, damage):
    def refuse(*args, **kwargs):
        raise damage

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "is_file", refuse)
    assert damage.strerror in refusal(copy)


def test_a_changed_manifest_without_a_new_digest(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    fields["thresholds"]["AU12"] = 0.01
    (copy / MANIFEST).write_text(json.dumps(fields))
    assert "digest does not fit" in refusal(copy)


def test_layout_and_order_of_the_fields_do_not_matter(copy):
    fields = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(dict(reversed(fields.items())), indent=7))
    assert open_bundle(copy).digest == fields["digest"]


def test_an_edited_and_signed_manifest_is_a_new_bundle(copy, edit):
    before = open_bundle(copy).digest
    edit(name="another toy")
    assert open_bundle(copy).digest != before


def test_a_signed_manifest_with_an_unknown_field(copy, edit):
    edit(mood="good")
    assert "mood: Extra inputs are not permitted" in refusal(copy)


def test_a_manifest_with_numbers_that_are_none(copy):
    text = (copy / MANIFEST).read_text().replace('"border": 128', '"border": NaN', 1)
    (copy / MANIFEST).write_text(text)
    assert "geometry.border" in refusal(copy)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_point_that_is_nowhere(copy, value):
    text = (copy / MANIFEST).read_text().replace("36.5", value, 1)
    (copy / MANIFEST).write_text(text)
    refusal(copy)


def test_a_lone_surrogate(copy):
    text = (copy / MANIFEST).read_text().replace("A toy.", "\\ud800", 1)
    (copy / MANIFEST).write_text(text)
    refusal(copy)
