"""What a camera leaves of a picture: its size, its face, and a file that can be opened."""

import cv2
import numpy as np
import pytest

from feallm.model.synth import camera


def drawn(shape=(118, 106), seed=0):
    small = np.random.default_rng(seed).integers(40, 215, (6, 5, 3), dtype=np.uint8)
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("shape", [(50, 45), (118, 106), (177, 159)])
def test_size_and_type_stay(shape):
    picture = drawn(shape)
    kept = picture.copy()
    for seed in range(30):
        found = camera.develop(picture, np.random.default_rng(seed))
        assert found.shape == picture.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(picture, kept)


def test_the_same_numbers_develop_the_same():
    first, again, other = (
        camera.develop(drawn(), np.random.default_rng(seed)) for seed in (4, 4, 5)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_nearly_half_come_out_gray_and_none_is_blank():
    found = [camera.develop(drawn(), np.random.default_rng(seed)) for seed in range(200)]
    gray = np.mean([np.ptp(f.astype(int), axis=2).max() == 0 for f in found])
    assert 0.33 < gray < 0.57
    assert min(f.std() for f in found) > 8
    alike = [np.corrcoef(f.mean(2).ravel(), drawn().mean(2).ravel())[0, 1] for f in found]
    assert min(alike) > 0.6 and np.mean(alike) > 0.9  # still the same picture


def test_encoded_pictures_open_as_what_they_were():
    for seed in range(20):
        picture = drawn(seed=seed)
        data = camera.encode(picture, np.random.default_rng(seed))
        assert data[:2] == b"\xff\xd8"  # a JPEG
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        back = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
        assert back.shape == picture.shape
        assert np.abs(back.astype(int) - picture).mean() < 6


def test_the_same_numbers_encode_the_same():
    first, again = (camera.encode(drawn(), np.random.default_rng(1)) for _ in range(2))
    assert first == again
    sizes = {len(camera.encode(drawn(), np.random.default_rng(seed))) for seed in range(20)}
    assert len(sizes) > 1  # some were a worse JPEG before
