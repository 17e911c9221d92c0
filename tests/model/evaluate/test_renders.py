"""Packs of renders as labelled sets, and the frozen one among them."""

import json

import numpy as np
import pytest

from feallm.model.data import pack
from feallm.model.evaluate import frozen, named, renders
from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.errors import InputError

N = 12
LIGHTS = ["soft", "hard", "dim"]


@pytest.fixture(autouse=True)
def frozen_file(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "FILE", tmp_path / "frozen.json")


@pytest.fixture
def rows(tiny):
    """Arrays of N renders."""
    rng = np.random.default_rng(0)
    points = np.tile([[15, 19], [33, 19], [24, 28], [17, 36], [31, 36]], (N, 1, 1))
    sides = rng.uniform(0, 5, (N, N_AUS, 2)).astype(np.float32)
    sides[0, AU_INDEX["AU12"]] = (0.5, 3)
    sides[1, AU_INDEX["AU12"]] = (np.nan, 3)
    return {
        "images": [tiny.webp(p) for p in tiny.pictures(N)],
        "votes": np.zeros((N, 10), np.float32),
        "expression": np.zeros((N, 8), np.float32),
        "au_sides": sides,
        "points5": points.astype(np.float32),
        "mean5": points.astype(np.float32) + 1,
        "group": np.arange(N),
        "points68": np.zeros((N, 68, 2), np.float32),
        "pose_deg": np.array([[30, yaw, 30] for yaw in (-40, -20, -19, 0, 19, 20) * 2], np.float32),
        "gaze_deg": np.zeros((N, 2), np.float32),
        "skin": np.array([0, 1, 2, 3, 4, 5] * 2, np.uint8),
        "light": np.array([0, 2] * 6, np.uint8),
        "occluded": np.array([0, 0.05, 0.3] * 4, np.float32),
        "glasses": np.array([0, 1, 2, 0] * 3, np.uint8),
        "face_px": np.array([30, 64, 65, 200] * 3, np.float32),
        "pattern": np.full(N, -1, np.int8),
        "seed": np.arange(N) * 2**40,
    }


@pytest.fixture
def write(tmp_path):
    """Write a pack in parts of `size` rows."""

    def of(rows, size=5, name="pack", **index):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        parts = []
        for start in range(0, N, size):
            images = rows["images"][start : start + size]
            path = folder / f"renders-{start:04d}.npz"
            np.savez(
                path,
                images=np.frombuffer(b"".join(images), np.uint8),
                offsets=np.cumsum([0, *map(len, images)]),
                **{k: v[start : start + size] for k, v in rows.items() if k != "images"},
            )
            parts.append({"file": path.name, "sha256": pack.sha256(path)})
        fields = {"origins": [], "light_names": LIGHTS, "parts": parts, **index}
        (folder / pack.INDEX).write_text(json.dumps(fields))
        return folder

    return of


def test_labels(write, rows):
    data, entry = renders.read(write(rows))
    assert entry.n == len(data.images) == N and data.images == rows["images"]
    assert data.au[0, AU_INDEX["AU12"]] == 3  # the stronger side
    assert np.isnan(data.au[1, AU_INDEX["AU12"]])  # one side is not known
    np.testing.assert_array_equal(data.au[2:], rows["au_sides"][2:].max(2))
    assert data.expression is None  # no soft label: no class


def test_intensities_lie_in_0_to_5(write, rows):
    rows["au_sides"][3, 0], rows["au_sides"][4, 0] = (-2, -1), (6, 1)
    data, _ = renders.read(write(rows))
    assert (data.au[3, 0], data.au[4, 0]) == (0, 5)


def test_classes_are_more_than_half_of_the_soft_label(write, rows):
    rows["expression"][0, 2] = 1
    rows["expression"][1, :2] = 0.5
    rows["expression"][2, 4:6] = (0.6, 0.4)
    data, _ = renders.read(write(rows))
    assert data.expression.tolist() == [2, -1, 4] + [-1] * (N - 3)


def test_points(write, rows):
    rows["points5"][3, 2] = np.nan
    data, _ = renders.read(write(rows))
    assert data.stand_in.tolist() == [k == 3 for k in range(N)]
    np.testing.assert_array_equal(data.points5[3], rows["mean5"][3])
    np.testing.assert_array_equal(data.points5[4], rows["points5"][4])


def test_slices(write, rows):
    slices = renders.read(write(rows))[0].slices
    assert slices["yaw"].tolist() == [">=20", ">=20", "<20", "<20", "<20", ">=20"] * 2
    assert slices["occluded"].tolist() == ["<=0.05", "<=0.05", ">0.05"] * 4
    assert slices["face_px"].tolist() == ["<=64", "<=64", ">64", ">64"] * 3
    assert slices["glasses"].tolist() == ["none", "clear", "dark", "none"] * 3
    assert slices["skin"].tolist() == ["0-1", "0-1", "2-3", "2-3", "4-5", "4-5"] * 2
    assert slices["light"].tolist() == ["soft", "dim"] * 6


def test_the_hash_is_of_the_faces_not_of_the_parts(write, rows):
    _, entry = renders.read(write(rows))
    assert renders.read(write(rows, size=12, name="one part"))[1] == entry
    rows["group"] = rows["group"].astype(np.int32)
    assert renders.read(write(rows, name="smaller numbers"))[1] == entry


CHANGES = ["images", "au_sides", "expression", "points5", "glasses", "seed", "pattern"]


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_follows_each_picture_and_label(write, rows, name):
    _, entry = renders.read(write(rows))
    rows[name] = list(rows[name]) if name == "images" else rows[name].copy()
    rows[name][-1] = rows[name][0] if name == "images" else rows[name][-1] + 1
    assert renders.read(write(rows, name="other"))[1] != entry


def test_the_hash_follows_the_names_of_the_lights(write, rows):
    _, entry = renders.read(write(rows))
    assert renders.read(write(rows, light_names=["soft", "hard", "dark"]))[1] != entry


def test_the_frozen_name_is_for_the_frozen_pack(write, rows):
    folder = write(rows)
    with pytest.raises(InputError, match="renders-frozen is not frozen yet"):
        named.read(folder, "renders-frozen")
    frozen.freeze({"renders-frozen": renders.read(folder)[1]})
    assert len(named.read(folder, "renders-frozen").images) == N
    rows["au_sides"][0, 0] = 1.5
    other = write(rows, name="other")
    with pytest.raises(InputError, match="renders-frozen is not the set that was frozen"):
        named.read(other, "renders-frozen")
    assert len(named.read(other, "tuning").images) == N  # any pack, under a name of its own


def test_a_data_file_in_a_packs_folder_comes_first(write, rows, split, votes):
    folder = write(rows)
    split("mine", count=2, votes=votes(0, 1)).rename(folder / "mine.npz")
    assert len(named.read(folder, "mine").images) == 2


BAD = {
    "three angles": ({"pose_deg": np.zeros((N, 2))}, r"pose_deg is float64 \(5, 2\), expected f4"),
    "words": ({"skin": np.full(N, "dark")}, "skin is <U4"),
    "a colour too many": ({"skin": np.full(N, 6)}, "skin 6, but there are 6 kinds"),
    "a light too many": ({"light": np.full(N, 3)}, "light 3, but there are 3 kinds"),
    "below none": ({"glasses": np.full(N, -1)}, "glasses holds numbers beyond u1"),
}


@pytest.mark.parametrize("arrays, message", BAD.values(), ids=BAD.keys())
def test_bad_arrays(write, rows, arrays, message):
    with pytest.raises(InputError, match=message):
        renders.read(write({**rows, **arrays}))


def test_an_array_is_missing(write, rows):
    del rows["face_px"]
    with pytest.raises(InputError, match="renders-0000.npz: no array named face_px"):
        renders.read(write(rows))


INDICES = {
    "no JSON": ("{", "not the index"),
    "a list": ("[]", "not the index"),
    "no names of lights": ('{"parts": []}', "light_names"),
    "no part": ('{"parts": [], "light_names": []}', "names no part"),
    "no hash": ('{"parts": [{"file": "renders-0000.npz"}], "light_names": []}', "sha256"),
}


@pytest.mark.parametrize("text, message", INDICES.values(), ids=INDICES.keys())
def test_bad_indices(write, rows, text, message):
    folder = write(rows)
    (folder / pack.INDEX).write_text(text)
    with pytest.raises(InputError, match=message):
        renders.read(folder)


def test_a_part_that_was_changed(write, rows):
    folder = write(rows)
    with (folder / "renders-0005.npz").open("ab") as file:
        file.write(b"!")
    with pytest.raises(InputError, match="renders-0005.npz: missing, or not the file"):
        renders.read(folder)


def test_a_folder_without_a_pack(tmp_path):
    with pytest.raises(InputError, match="pack.json: no such file"):
        renders.read(tmp_path)


def test_the_command_scores_a_pack(feallm, exported, write, rows, tmp_path):
    out = tmp_path / "out.json"
    command = ["--data", write(rows), "--split", "tuning", "--bundle", exported[1], "--json", out]
    code, text, err = feallm("evaluate", *command)
    assert (code, err) == (0, "")
    found = json.loads(out.read_text())
    assert found["n"] == N and set(found["aus"]) == {"AU1", "AU12", "AU25"}
    assert found["aus"]["AU1"]["icc31"] is not None and found["points_missing"] == 0
    assert set(found["slices"]["yaw"]) == {"<20", ">=20"}
    assert "AU43" in found["not_trained"] and "expression" not in found
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "not trained" in lines["AU43"] and ["glasses", "none"] in [
        line.split()[:2] for line in text.splitlines()
    ]
    code, _, err = feallm("evaluate", *command[:2], "--split", "renders-frozen", *command[4:])
    assert (code, err.count("\n")) == (3, 1) and "not frozen yet" in err
