"""The FER+ rule as a table of hand-made votes, and the slice held out of `train`."""

import numpy as np
import pytest

from feallm.model.data import ferplus
from feallm.runtime.contract.errors import InputError

# neutral happiness surprise sadness anger disgust fear contempt | unknown not-a-face
RULE = {
    "all of one kind": ([10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0),
    "single votes are dropped": ([1, 3, 1, 1, 1, 1, 1, 1, 0, 0], 1),
    "nothing but single votes": ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], -1),
    "no votes": ([0] * 10, -1),
    "more than half of what is left": ([0, 0, 5, 4, 1, 0, 0, 0, 0, 0], 2),
    "exactly half is not more": ([0, 0, 5, 5, 0, 0, 0, 0, 0, 0], -1),
    "half by dropping: 4 of 4 + 2": ([4, 2, 1, 1, 1, 1, 0, 0, 0, 0], 0),
    "largest without a majority": ([4, 3, 3, 0, 0, 0, 0, 0, 0, 0], -1),
    "a tie at the top": ([2, 2, 0, 0, 0, 0, 0, 0, 0, 0], -1),
    "unknown counts in what is left": ([0, 5, 0, 0, 0, 0, 0, 0, 5, 0], -1),
    "not a face counts too": ([0, 4, 0, 0, 0, 0, 0, 0, 2, 2], -1),
    "a single unknown does not": ([0, 4, 3, 0, 0, 0, 0, 0, 1, 1], 1),
    "unknown wins": ([2, 0, 0, 0, 0, 0, 0, 0, 8, 0], -1),
    "not a face wins": ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], -1),
    "contempt": ([3, 0, 0, 0, 0, 0, 0, 6, 1, 0], 7),
    "two raters": ([0, 0, 0, 0, 0, 0, 2, 1, 1, 1], 6),
}


@pytest.mark.parametrize("votes, expected", RULE.values(), ids=RULE.keys())
def test_rule(votes, expected):
    for kind in (np.uint8, np.float32):  # 8-bit votes must not run over when they are doubled
        assert ferplus.classes(np.array([votes], kind)).tolist() == [expected]


def test_many_raters_do_not_run_over():
    votes = np.zeros((1, 10), np.uint8)
    votes[0, :2] = 200, 100
    assert ferplus.classes(votes).tolist() == [0]


def test_soft_labels_are_shares_of_the_eight():
    votes = np.array([[6, 3, 1, 0, 0, 0, 0, 0, 5, 0], [0, 0, 0, 0, 0, 0, 0, 1, 4, 5]], np.uint8)
    soft = ferplus.soft_labels(votes)
    np.testing.assert_allclose(soft[0], [2 / 3, 1 / 3, 0, 0, 0, 0, 0, 0], rtol=1e-6)
    assert soft[1].sum() == 0 and soft.dtype == np.float32


def test_groups_are_held_out_whole():
    group = np.array([7, 3, 7, 3, 9, -2, -2, 100, 41, 41] * 30 + list(range(200, 800)))
    out = ferplus.held_out(group, share=0.1, seed=4)
    for number in np.unique(group):
        assert len(set(out[group == number])) == 1
    assert 0.04 < out[300:].mean() < 0.16
    assert np.array_equal(out, ferplus.held_out(group, share=0.1, seed=4))
    assert not np.array_equal(out, ferplus.held_out(group, share=0.1, seed=5))


def packed(path, pictures, **changed):
    arrays = {
        "images": np.frombuffer(b"".join(pictures), np.uint8),
        "offsets": np.cumsum([0, *(len(image) for image in pictures)]),
        "votes": np.full((len(pictures), 10), 1, np.uint8),
        "dup_group": np.arange(len(pictures)),
    }
    arrays |= changed
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_read(tiny, tmp_path):
    pictures = tiny.pictures(3)
    images = [tiny.webp(picture) for picture in pictures]
    split = ferplus.read(packed(tmp_path / "a.npz", images))
    assert np.abs(split.pictures.astype(int) - pictures).mean() < 5
    assert split.usable.all() and split.votes.dtype == np.float32
    near = np.array([0, 2, 1], np.uint8)
    split = ferplus.read(packed(tmp_path / "b.npz", images, near_eval=near))
    assert split.usable.tolist() == [True, False, False]


@pytest.mark.parametrize("missing", ["images", "offsets", "votes", "dup_group"])
def test_a_missing_array_is_named(tiny, tmp_path, missing):
    path = packed(tmp_path / "a.npz", [tiny.webp(tiny.pictures(1)[0])], **{missing: None})
    with pytest.raises(InputError, match=missing):
        ferplus.read(path)


def test_what_is_no_picture_is_an_input_error(tiny, tmp_path):
    with pytest.raises(InputError, match="picture 1"):
        ferplus.read(packed(tmp_path / "a.npz", [tiny.webp(tiny.pictures(1)[0]), b"no"]))
    large = tiny.webp(tiny.pictures(1, side=64)[0])
    with pytest.raises(InputError, match="expected 48 x 48"):
        ferplus.read(packed(tmp_path / "b.npz", [large]))


@pytest.mark.parametrize("data", [None, b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_an_input_error(tmp_path, data):
    path = tmp_path / "a.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match="a.npz"):
        ferplus.read(path)
