"""Packs of renders: the same bytes however they were made, and nothing half made is ever read."""

import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from feallm.model.data import pack as packs
from feallm.model.evaluate import named, renders
from feallm.model.synth import pack
from feallm.runtime.contract.errors import InputError, UsageError


def contents(folder):
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(toy_pack, tmp_path):
    """A pack of 14 faces in three parts."""
    return shutil.copytree(toy_pack, tmp_path / "whole")


def test_the_same_seed_gives_the_same_bytes(make, whole, tmp_path):
    make(tmp_path / "again")
    found = contents(whole)
    assert contents(tmp_path / "again") == found
    assert set(found) == {"pack.json", "render.json", *(f"renders-000{k}.npz" for k in range(3))}


def test_more_faces_do_not_change_the_first(make, whole, tmp_path):
    make(tmp_path / "more", n=18)
    first, more = (contents(folder)["renders-0000.npz"] for folder in (whole, tmp_path / "more"))
    assert first == more


def test_another_seed_or_stream_draws_other_people(make, whole, tmp_path):
    make(tmp_path / "other", seed=2)
    make(tmp_path / "frozen", frozen=True)
    groups = [
        set(packs.read(folder).group.tolist())
        for folder in (whole, tmp_path / "other", tmp_path / "frozen")
    ]
    assert [len(group) for group in groups] == [4, 4, 4]  # four shots of each person
    assert len(set.union(*groups)) == 12
    people = [{number // 2 for number in group} for group in groups]  # the last bit is the stream
    assert len(set.union(*people)) == 12


def test_two_processes_make_the_bytes_of_one(
    whole, toy_studio, toy_file, grounds_file, tmp_path, monkeypatch
):
    """Real processes, each with an OpenGL of its own."""
    small = "import feallm.model.synth.pack as pack; pack.BLOCK = 6"
    real = pack.ProcessPoolExecutor
    monkeypatch.setattr(
        pack,
        "ProcessPoolExecutor",
        lambda workers, context: real(workers, context, exec, (small,)),
    )
    monkeypatch.setattr(pack, "BLOCK", 6)
    monkeypatch.setattr(pack, "open_gl", lambda: SimpleNamespace(release=lambda: None))
    heard = []
    job = pack.Job(toy_file, grounds_file, 14, 1)
    parts = pack.make(job, tmp_path / "two", workers=2, step=heard.append)
    assert [path.name for path in parts] == [f"renders-000{k}.npz" for k in range(3)]
    assert sorted(heard) == [2, 6, 6]
    assert contents(tmp_path / "two") == contents(whole)


def test_a_run_goes_on_after_the_parts_that_are_there(make, whole, monkeypatch):
    before = contents(whole)
    (whole / "renders-0001.npz").unlink()
    (whole / packs.INDEX).unlink()
    heard, drawn = [], []
    draw = pack._block
    monkeypatch.setattr(
        pack, "_block", lambda job, path, first: drawn.append(first) or draw(job, path, first)
    )
    make(whole, step=heard.append)
    assert contents(whole) == before
    assert drawn == [6] and sum(heard) == 14  # the others were not drawn again


class Stop(Exception):
    """What a user or a machine does in the middle."""


@pytest.mark.parametrize("stop", [Stop, KeyboardInterrupt])
def test_a_run_that_was_stopped_comes_to_the_same(make, whole, tmp_path, stop):
    def halt(count):
        raise stop

    out = tmp_path / "stopped"
    with pytest.raises(stop):
        make(out, step=halt)
    assert (out / "renders-0000.npz").is_file() and not (out / packs.INDEX).exists()
    make(out)
    assert contents(out) == contents(whole)


def test_what_a_killed_run_left_half_written_is_no_part(make, whole):
    before = contents(whole)
    (whole / packs.INDEX).unlink()
    (whole / "renders-0002.npz").rename(whole / ".renders-0002.partial.npz")
    (whole / ".renders-0002.partial.npz").write_bytes(b"half")
    make(whole)
    assert contents(whole) == before


CHANGES = {"n": {"n": 18}, "seed": {"seed": 2}, "stream": {"frozen": True}}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_folder_with_another_plan_is_refused(make, whole, change):
    before = contents(whole)
    with pytest.raises(UsageError, match="holds another pack of renders") as error:
        make(whole, **change)
    assert "\n" not in error.value.line() and error.value.hint
    assert contents(whole) == before


def test_another_head_is_another_plan(make, whole, toys, toy_head, tmp_path):
    wider = {**toys.compact(toy_head), "neutral": toy_head.mean * np.float32(1.5)}
    np.savez(tmp_path / "wide.npz", **wider)
    with pytest.raises(UsageError, match="holds another pack of renders"):
        make(whole, head=tmp_path / "wide.npz")


def test_a_folder_with_a_pack_of_photographs_is_refused(make, tiny, tmp_path):
    packs.write([tiny.rows(4)], tmp_path / "photos")
    before = contents(tmp_path / "photos")
    with pytest.raises(UsageError, match="holds a pack that is not of renders"):
        make(tmp_path / "photos")
    assert contents(tmp_path / "photos") == before


@pytest.mark.parametrize("text", ["{", "", "word"])
def test_a_plan_that_is_none_is_refused(make, tmp_path, text):
    (tmp_path / pack.PLAN).write_text(text)
    with pytest.raises(UsageError, match="render.json: not a plan of renders"):
        make(tmp_path)


def test_no_faces_are_no_pack(make, tmp_path):
    with pytest.raises(UsageError, match="--n: expected at least 1, found 0"):
        make(tmp_path / "none", n=0)
    assert not (tmp_path / "none").exists()


def study_reader():
    pytest.importorskip("torch", reason="the study needs torch")
    from feallm.model.studies.renders import crops

    return lambda folder: crops.read(folder, 1.0)


READERS = {
    "data": lambda: packs.read,
    "evaluate": lambda: renders.read,
    "by name": lambda: lambda folder: named.read(folder, "renders-frozen"),
    "study": study_reader,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_a_half_made_pack_is_never_read(whole, reader):
    (whole / packs.INDEX).unlink()
    with pytest.raises(InputError, match="pack.json"):
        reader()(whole)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_a_part_that_was_changed_is_never_read(whole, reader):
    data = bytearray((whole / "renders-0001.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (whole / "renders-0001.npz").write_bytes(data)
    with pytest.raises(InputError, match="renders-0001.npz: missing, or not the file"):
        reader()(whole)


def test_a_pack_is_read_by_all_who_read_packs(whole):
    faces, (labelled, entry) = packs.read(whole), renders.read(whole)
    assert len(faces.pictures) == entry.n == 14
    np.testing.assert_allclose(
        labelled.au, faces.au_sides.max(2).clip(0, 5), atol=1e-6, equal_nan=True
    )
    plain = {"yaw", "yaw by 15", "occluded", "face_px", "glasses", "skin", "light", "age"}
    assert set(labelled.slices) == plain
    store = study_reader()(whole)
    np.testing.assert_array_equal(store.au_sides, faces.au_sides)


def test_arrays_are_what_the_module_says(whole):
    with np.load(whole / "renders-0000.npz") as file:
        part = {name: file[name] for name in file.files}
    assert set(part) == {"images", "offsets", *renders.ARRAYS}
    for name, (kind, shape) in renders.ARRAYS.items():
        assert part[name].shape == (6, *shape) and part[name].dtype == np.dtype(kind), name
    shapes = []
    for image in packs.encoded(part["images"], part["offsets"]):
        shapes.append(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape)
    inside = (part["points68"] > -20) & (part["points68"] < np.array(shapes)[:, None, 1::-1] + 20)
    assert inside.all() and np.isfinite(part["points5"]).all()
    eyes = part["points5"][:, 1] - part["points5"][:, 0]
    assert (eyes[:, 0] > 0).all()  # the person's right eye is the first
    assert part["au_sides"][np.isfinite(part["au_sides"])].min() >= 0
    assert len(set(part["seed"].tolist())) == 6 and len(set(part["group"].tolist())) == 2
    np.testing.assert_allclose(part["face_px"], np.ptp(part["points68"][:, :17, 0], axis=1))


def test_the_index_says_whose_head_it_is(whole, toy_head):
    (origin,) = json.loads((whole / packs.INDEX).read_text())["origins"]
    assert origin["name"] == "renders" and origin["rows"] == 14
    assert "ICT-FaceKit" in origin["licence"] and "MIT" in origin["licence"]
    plan = json.loads((whole / pack.PLAN).read_text())
    assert plan["head"] == toy_head.digest and plan["version"] == pack.VERSION


def test_every_fourth_background_is_for_the_frozen_set_alone(grounds_file):
    train, test = pack.backgrounds(grounds_file, False), pack.backgrounds(grounds_file, True)
    assert [len(train), len(test)] == [5, 2]  # one of the eight has no clear licence
    assert {p.shape for p in train + test} == {(256, 256, 3)}
    assert not {p.tobytes() for p in train} & {p.tobytes() for p in test}
    assert pack.backgrounds(None, False) == []
    with np.load(grounds_file) as file:  # by name, not by place
        first = file["data"][file["offsets"][7] : file["offsets"][8]]
    named_a = cv2.imdecode(first, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(test[0], named_a)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "flipped": lambda path: path.write_bytes(_flipped(path.read_bytes())),
    "another file": lambda path: path.write_text("hi"),
}


def _flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_part_is_drawn_again(make, whole, damage, finished):
    before = contents(whole)
    damage(whole / "renders-0001.npz")
    if not finished:
        (whole / packs.INDEX).unlink()
    make(whole)
    assert contents(whole) == before


def test_parts_without_a_plan_are_not_taken_over(make, whole):
    (whole / pack.PLAN).unlink()
    (whole / packs.INDEX).unlink()
    with pytest.raises(UsageError, match="parts that nobody knows"):
        make(whole)
