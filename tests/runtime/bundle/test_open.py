"""A bundle is used only when every byte of it is what its manifest says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from feallm.runtime.bundle.open import SHIPPED, open_bundle, shipped_path
from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import MANIFEST, canonical, tree_sha256


def test_a_whole_bundle(copy):
    bundle = open_bundle(copy)
    assert bundle.root == copy
    assert bundle.file("vision") == copy / "vision.onnx"
    assert bundle.digest == json.loads((copy / MANIFEST).read_text())["digest"]
    assert bundle.manifest.geometry.crop().width_px == 112
    assert bundle.manifest.language is None and bundle.signer is None


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
    assert bundle.root == tmp_path / SHIPPED[0] and bundle.manifest.name == "toy"


def test_names_that_are_not_shipped_are_folders(tmp_path, monkeypatch, refusal):
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
        (folder, "a folder, where a file should be"),
    ],
)
def test_a_damaged_artifact(copy, damage, words, refusal):
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
        (b'{"schema_version": 1}', "written in schema 1; this version reads 3"),
        (b'{"schema_version": "2"}', "written in schema 2"),
        (b'{"schema_version": 2}', "written in schema 2; this version reads 3"),
        (b'{"schema_version": 3}', "not in the form"),
        (b'{\n "schema_version": 3\n}\n', "name: Field required"),
        (b'{\n "a": 1,\n "a": 1,\n "schema_version": 3\n}\n', "not in the form"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b'{"schema_version": ' + b"[" * 800 + b"]" * 800 + b"}", "written in schema [[[["),
        (b'{"schema_version": "' + b"x" * 500_000 + b'"}', "written in schema xxxx"),
        (b" " * ((1 << 20) + 1), "1048576 at most are read"),
    ],
    ids=[
        *("empty", "cut", "utf16", "deep", "list", "null", "object", "oldest", "text", "older"),
        *("spaces", "bare", "doubled", "giant", "deep version", "long version", "large"),
    ],
)
def test_something_else_than_a_manifest(copy, data, words, refusal):
    (copy / MANIFEST).write_bytes(data)
    assert words in refusal(copy)


@pytest.mark.parametrize(
    "path",
    ["nothing/here", "a\0b", "bundle/vision.onnx", "bundle/.."],
    ids=["missing", "zero", "a file", "a folder without"],
)
def test_something_else_than_a_bundle(copy, path, refusal):
    assert "not a bundle" in refusal(copy.parent / path)


def test_a_path_that_is_too_long(copy, refusal):
    refusal(copy.parent / ("x" * 300))


@pytest.mark.parametrize("name", [MANIFEST, "vision.onnx"])
def test_a_file_that_may_not_be_read(copy, monkeypatch, refusal, name):
    """Told by the call itself, since root may read everything."""
    read = Path.open

    def refuse(path, *how, **more):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path, *how, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(copy)


@pytest.mark.parametrize("call", ["lstat", "scandir"])
@pytest.mark.parametrize("damage", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_folder_that_does_not_answer(copy, monkeypatch, refusal, call, damage):
    def refuse(*args, **kwargs):
        raise damage

    with monkeypatch.context() as patch:
        patch.setattr(f"feallm.runtime.bundle.listing.os.{call}", refuse)
        line = refusal(copy)
    assert damage.strerror in line


def test_a_changed_manifest_without_a_new_digest(copy, refusal):
    fields = json.loads((copy / MANIFEST).read_text())
    fields["thresholds"]["AU12"] = 0.01
    (copy / MANIFEST).write_bytes(canonical(fields))
    assert "digest does not fit" in refusal(copy)


@pytest.mark.parametrize(
    "write",
    [
        lambda fields: json.dumps(fields, indent=7, sort_keys=True),
        lambda fields: json.dumps(dict(reversed(fields.items())), indent=1) + "\n",
        lambda fields: json.dumps(fields, indent=1, sort_keys=True),
        lambda fields: canonical(fields).decode().replace(": 0.5,", ": 0.50,", 1),
        lambda fields: canonical(fields).decode().replace("\n", "\r\n"),
    ],
    ids=["spaces", "order", "end", "zero", "lines"],
)
def test_a_manifest_has_one_form(copy, refusal, write):
    fields = json.loads((copy / MANIFEST).read_text())
    assert (copy / MANIFEST).read_bytes() == canonical(fields)
    (copy / MANIFEST).write_bytes(write(fields).encode())
    assert "not in the form" in refusal(copy)


def test_an_edited_and_signed_manifest_is_a_new_bundle(copy, edit):
    before = open_bundle(copy).digest
    edit(name="another-toy")
    assert open_bundle(copy).digest != before


def test_a_signed_manifest_with_an_unknown_field(copy, edit, refusal):
    edit(mood="good")
    assert "mood: Extra inputs are not permitted" in refusal(copy)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"'])
def test_what_json_cannot_say(copy, refusal, value):
    text = (copy / MANIFEST).read_text()
    assert "36.5" in text
    (copy / MANIFEST).write_text(text.replace("36.5", value, 1))
    assert "what JSON in UTF-8 cannot say" in refusal(copy)


def leaves(value, way=()):
    """The way to each value that holds no others."""
    if isinstance(value, dict | list) and value:
        keys = value if isinstance(value, dict) else range(len(value))
        return [leaf for key in keys for leaf in leaves(value[key], (*way, key))]
    return [way]


def others(value):
    """What looks like a value without being of its type. A whole number is a number, too."""
    if isinstance(value, str):
        return [0, 1, 1.5, True]
    if isinstance(value, bool):
        return [int(value), float(value), str(value).lower()]
    return [str(value), True] + [value + 0.5] * isinstance(value, int)


def open_or_none(path):
    try:
        return open_bundle(path)
    except BundleError:
        return None


def test_no_value_passes_for_one_of_another_type(rich_copy, toy):
    """A digest made anew fits whatever was written: the types alone refuse it."""
    text = (rich_copy / MANIFEST).read_text()
    tried = 0
    for way in leaves(json.loads(text)):
        fields = json.loads(text)
        place = fields
        for key in way[:-1]:
            place = place[key]
        value = place[way[-1]]
        if way == ("digest",) or not isinstance(value, str | int | float):
            continue
        for other in (*others(value), [value], {"a": value}):
            place[way[-1]] = other
            toy.sign(rich_copy, fields)
            assert open_or_none(rich_copy) is None, (way, other)
            tried += 1
    assert tried > 300
    (rich_copy / MANIFEST).write_text(text)
    assert open_bundle(rich_copy).manifest.name == "toy"


def test_a_link_to_a_bundle_is_followed_once(copy, tmp_path):
    current = tmp_path / "current"
    current.symlink_to(copy.name)
    bundle = open_bundle(current)
    assert bundle.root == copy and bundle.digest == open_bundle(copy).digest
    current.unlink()  # turned to the next version: what is open stays what it was
    assert bundle.file("vision").is_file()


def test_links_in_a_circle(tmp_path, refusal):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refusal(tmp_path / "a")


def test_a_bundle_that_may_only_be_read(copy):
    before = {path.name: path.stat().st_mtime_ns for path in [copy, *copy.iterdir()]}
    for path in (*copy.iterdir(), copy):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert open_bundle(copy).manifest.name == "toy"
    finally:
        copy.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in [copy, *copy.iterdir()]} == before


def test_a_folder_with_the_hash_of_a_file(copy, edit, refusal):
    """The hash of a folder is that of a text which lists it: a file may hold that very text."""
    hashes = {"a": hashlib.sha256(b"x" * 77).hexdigest()}
    text = canonical(dict(hashes))
    (copy / "vision.onnx").write_bytes(text)
    fields = json.loads((copy / MANIFEST).read_text())
    stated = fields["artifacts"]["vision"]
    stated |= {"size_bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    edit(**fields)
    assert open_bundle(copy).manifest.artifacts["vision"].size_bytes == len(text)
    (copy / "vision.onnx").unlink()
    (copy / "vision.onnx").mkdir()
    hashes = {"a": hashlib.sha256(b"x" * len(text)).hexdigest()}
    (copy / "vision.onnx" / "a").write_bytes(b"x" * len(text))
    stated["sha256"] = tree_sha256(hashes)
    edit(**fields)
    assert "a folder, where a file should be" in refusal(copy)


def test_nothing_is_loaded_of_a_damaged_bundle(copy, monkeypatch):
    from feallm.runtime import analyze

    loaded = []
    monkeypatch.setattr(analyze, "open_vision", lambda path, *rest: loaded.append(path))
    analyze.Analyzer(copy, detect=False)
    assert loaded == [copy / "vision.onnx"]
    flipped(copy / "vision.onnx")
    with pytest.raises(BundleError):
        analyze.Analyzer(copy, detect=False)
    assert len(loaded) == 1


def test_sizes_are_compared_before_anything_is_read(rich_copy, monkeypatch, refusal):
    grown(rich_copy / "measured.json")  # the last artifact
    read = []
    monkeypatch.setattr("feallm.runtime.bundle.listing._sha256", read.append)
    assert "bytes instead of" in refusal(rich_copy) and read == []
