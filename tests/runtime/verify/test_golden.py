"""The file of golden outputs: what is written is read, and nothing else is."""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest

from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.verify import golden, trace
from feallm.runtime.verify.golden import Facts, Golden, Words, hash_of, rounded
from feallm.runtime.verify.golden_file import read, write

FRAMES, CROPS, ANSWERS = 2, 5, 3


def picture(seed, height, width):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def words():
    rng = np.random.default_rng(7)
    answers = ((5, 6, 7), (8,), (9, 10, 11, 12))
    places = sum(map(len, answers))
    logit = -np.sort(-rng.normal(0, 3, (places, 6)).astype(np.float32), 1)
    return Words(
        np.array([0, 2, 4]),
        (3, 4, 5),
        answers,
        ("Why: ümläut 顔\n", "", "two  spaces"),
        np.tile(np.arange(6), (places, 1)),
        logit,
        np.log(np.exp(logit).sum(1)) + 0.1,
    )


def layers():
    found = [trace.sample("stem", np.arange(6.0).reshape(2, 3)), trace.sample("body", np.ones(400))]
    packed = trace.pack(found, "eyes")
    return packed | {"eyes_rms": rounded(packed["eyes_rms"])}


@pytest.fixture(scope="module")
def made():
    """Golden outputs of no network, with all that a file may hold; one crop is gray."""
    rng = np.random.default_rng(3)
    crops = np.stack([picture(k, CROP.height_px, CROP.width_px) for k in range(CROPS)])
    crops[1] = crops[1][..., :1]
    frames = tuple(
        cv2.imencode(".jpg", picture(10 + k, 60, 80 + k))[1].tobytes() for k in range(FRAMES)
    )
    shapes = {
        "au_probability": (20,),
        "au_intensity": (20, 2),
        "expression": (8,),
        "tokens": (17, 256),
    }
    outputs = {
        name: rng.random((CROPS, *shape)).astype(np.float32) for name, shape in shapes.items()
    }
    au = rng.uniform(0, 5, (CROPS, 20)).astype(np.float32)
    au[2] = np.nan
    facts = Facts(
        model="toy",
        checkpoint_sha256="ab" * 32,
        device="cpu",
        dtype="float32",
        settings={"threads": "1"},
        versions={"numpy": "2"},
        seed=4,
        pictures=("drawn",),
        sha256=hash_of(frames, crops),
        command="feallm reference record",
        aus_trained=("AU1", "AU12"),
        thresholds={"AU1": 0.4, "AU12": 0.5},
        question="Why?",
    )
    return Golden(
        facts, frames, rng.normal(200, 50, (FRAMES, 2, 3)),
        rng.random((FRAMES, 20)).astype(np.float32), rng.random((FRAMES, 8)).astype(np.float32),
        crops, outputs, au, np.array([0, -1, 7, 3, 3]), words(),
        {"bgr": rng.random((2, 96)).astype(np.float32)}, layers(),
    )  # fmt: skip


@pytest.fixture
def file(made, tmp_path):
    write(made, tmp_path / "g.npz")
    return tmp_path / "g.npz"


def same(a, b):
    assert a.facts == b.facts and a.frames == b.frames
    for name in ("frame_matrix", "frame_au", "frame_expression", "crops", "au", "expression"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for one, other in ((a.outputs, b.outputs), (a.faults, b.faults), (a.layers, b.layers)):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert (a.words is None) == (b.words is None)
    if a.words is not None and b.words is not None:
        for name in ("question", "answers", "said"):
            assert getattr(a.words, name) == getattr(b.words, name)
        for name in ("spoken", "top", "logit", "total", "begins"):
            np.testing.assert_array_equal(getattr(a.words, name), getattr(b.words, name))


def test_what_is_written_is_read(made, file):
    same(read(file), made)
    assert read(file).frame_matrix.dtype == np.float64, "a shift of 200 px keeps its hundredths"


def test_without_frames_words_faults_and_layers(made, tmp_path):
    facts = made.facts.model_copy(update={"sha256": hash_of((), made.crops)})
    bare = replace(
        made, facts=facts, frames=(), frame_matrix=np.zeros((0, 2, 3)),
        frame_au=np.zeros((0, 20), np.float32), frame_expression=np.zeros((0, 8), np.float32),
        words=None, faults={}, layers={},
    )  # fmt: skip
    write(bare, tmp_path / "bare.npz")
    same(read(tmp_path / "bare.npz"), bare)


def test_the_same_bytes_twice(made, file, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)  # another day
    write(made, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()
    write(read(file), tmp_path / "third.npz")
    assert (tmp_path / "third.npz").read_bytes() == file.read_bytes()


def test_gray_crops_take_one_channel_and_come_back_with_three(made, file):
    assert (read(file).crops[1] == made.crops[1]).all()
    with np.load(file) as arrays:
        ends = arrays["crops_at"]
        gray = cv2.imdecode(arrays["crops"][ends[1] : ends[2]], cv2.IMREAD_UNCHANGED)
    assert gray.ndim == 2


def test_a_frame_is_rgb(made):
    bgr = cv2.imdecode(np.frombuffer(made.frames[1], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(made.frame(1), bgr[..., ::-1])


def test_pictures_alone_name_the_set(made):
    other = replace(made, facts=made.facts.model_copy(update={"model": "another", "seed": 9}))
    assert other.pictures_sha256() == made.pictures_sha256() == made.facts.sha256
    crops = made.crops.copy()
    crops[4, 0, 0, 0] ^= 1
    assert replace(made, crops=crops).pictures_sha256() != made.pictures_sha256()
    assert replace(made, frames=made.frames[::-1]).pictures_sha256() != made.pictures_sha256()


def test_joining_pictures_otherwise_is_another_set():
    crops = np.zeros((1, 2, 2, 3), np.uint8)
    assert hash_of((b"ab", b"c"), crops) != hash_of((b"a", b"bc"), crops)


def change(file, **arrays):
    """Write some arrays of the file otherwise; None leaves one out, bytes stay as they are."""
    with np.load(file) as archive:
        whole = {name: archive[name] for name in archive.files}
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in (whole | arrays).items():
            if value is None:
                continue
            data = io.BytesIO()
            if isinstance(value, bytes):
                data.write(value)
            else:
                np.save(data, value)
            archive.writestr(f"{name}.npy", data.getvalue())


def text(value):
    return np.frombuffer(value.encode(), np.uint8)


def floats(*shape):
    return np.full(shape, 0.5, np.float32)


def facts_with(made, **fields):
    return text(json.dumps(json.loads(made.facts.model_dump_json()) | fields))


def matrices(*one):
    """Those of two frames: this one, and no face."""
    return np.stack([np.array(one, np.float64), np.full((2, 3), np.nan)])


def test_a_frame_without_a_face_and_one_far_off(made, file):
    stated = matrices((0.03, 0.0, -9e5), (0.0, 0.03, 9e5))
    change(file, frame_matrix=stated)
    np.testing.assert_array_equal(read(file).frame_matrix, stated)


NO_SPREAD = "frame_matrix 0 lays no frame over a crop"
SHAPES = b'[["stem", [2, 3]], ["body", [1e400]]]'

DAMAGE = {
    "another crop": (
        {"crops": np.frombuffer(cv2.imencode(".png", picture(3, 128, 112))[1].tobytes(), np.uint8),
         "crops_at": None}, "crops_at"),
    "no facts": ({"facts": None}, "no 'facts'"),
    "facts that are no JSON": ({"facts": text("{")}, "JSON"),
    "facts in a text": ({"facts": b"model = toy"}, "facts is no array"),
    "words cut elsewhere": ({"answer_at": np.array([0, 3, 4, 9])}, "answer_at does not cut"),
    "an answer without tokens": ({"answer_at": np.array([0, 4, 4, 8])}, "has no tokens"),
    "words without answers": (
        {"spoken": np.zeros(0, int), "said": text("[]"), "answer": np.zeros(0, int),
         "answer_at": np.array([0])}, "without answers"),
    "an answer about nothing": ({"spoken": np.array([0, 2, 5])}, "about no crop"),
    "an answer about less than nothing": ({"spoken": np.array([0, -2, 4])}, "spoken"),
    "fewer texts than answers": ({"said": text('["one"]')}, "3 answers, 1 texts"),
    "texts that are numbers": ({"said": text("[1, 2, 3]")}, "texts"),
    "texts too deep": ({"said": text("[" * 100_000)}, "recursion"),
    "logits of other places": ({"top": np.zeros((7, 6), int)}, "logits of 7 places"),
    "a token below zero": ({"top": np.full((8, 6), -1)}, "top"),
    "tokens that are no numbers": ({"question": np.array(["a"])}, "question"),
    "half a token": ({"answer": np.full(8, 1.5)}, "answer"),
    "no total": ({"total": None}, "no 'total'"),
    "a logit that is none": ({"logit": np.full((8, 6), np.nan, np.float32)}, "logit is not finite"),
    "no outputs": ({"out.tokens": None}, "tokens"),
    "outputs of fewer faces": ({"out.expression": floats(4, 8)}, r"out.expression is \(4, 8\)"),
    "outputs of another network": ({"out.au_probability": floats(5, 19)}, "au_probability"),
    "an output that is none": ({"out.tokens": np.full((5, 17, 256), np.inf)}, "not finite"),
    "an output in words": ({"out.expression": np.full((5, 8), "x")}, "expected numbers"),
    "a frame cut elsewhere": ({"frames_at": np.array([0, 10, 20])}, "frames_at does not cut"),
    "a frame that is no picture": (
        {"frames": np.zeros(20, np.uint8), "frames_at": np.array([0, 10, 20])}, "frame 0 cannot"),
    "ends that go back": ({"crops_at": np.array([0, 9, 3, 20, 30, 40])}, "crops_at does not cut"),
    "ends without an end": ({"crops_at": np.array([np.inf] * 6)}, "crops_at"),
    "pictures as numbers": ({"crops": floats(40)}, "expected uint8"),
    "no faces at all": ({"crops": np.zeros(0, np.uint8), "crops_at": np.array([0])}, "no faces"),
    "a transform too few": ({"frame_matrix": np.zeros((1, 2, 3))}, "frame_matrix"),
    "a transform in words": ({"frame_matrix": np.full((2, 2, 3), "x")}, "expected numbers"),
    "a transform to nothing": ({"frame_matrix": matrices((0, 0, 0), (0, 0, 0))}, NO_SPREAD),
    "a transform to a line": ({"frame_matrix": matrices((1, 2, 5), (2, 4, 5))}, NO_SPREAD),
    "a huge transform": ({"frame_matrix": matrices((1e300, 0, 5), (0, 1e300, 5))}, "not finite"),
    "a transform far away": ({"frame_matrix": matrices((1, 0, 5), (0, 1, -1e6))}, NO_SPREAD),
    "half a transform": ({"frame_matrix": matrices((1, 0, 5), (0, 1, np.nan))}, NO_SPREAD),
    "an endless transform": ({"frame_matrix": matrices((1, 0, np.inf), (0, 1, 5))}, "not finite"),
    "a wide transform": ({"frame_matrix": matrices((1e30, 0, 5), (0, 1e30, 5))}, NO_SPREAD),
    "a label without end": ({"au": np.full((5, 20), np.inf)}, "au is not finite"),
    "an output too large": ({"out.expression": np.full((5, 8), 1e300)}, "not finite"),
    "an endless layer": ({"trace.eyes_layers": np.frombuffer(SHAPES, np.uint8)}, "impossible"),
    "layers in rows": ({"trace.eyes_rms": floats(2, 1)}, "eyes_rms is no row"),
    "labels of fewer faces": ({"au": floats(4, 20)}, r"au is \(4, 20\)"),
    "a fault of more crops than there are": ({"fault.bgr": floats(6, 96)}, "fault.bgr"),
    "a fault of no crop": ({"fault.bgr": floats(0, 96)}, "fault.bgr"),
    "a fault that is none": ({"fault.bgr": np.full((2, 96), np.nan)}, "not finite"),
    "a fault that is a number": ({"fault.bgr": np.float32(1)}, "unsized"),
    "layers without values": ({"trace.eyes_values": None}, "layers of eyes"),
    "layers of words that are none": ({"trace.words_rms": floats(2)}, "layers of words"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(file, name):
    arrays, expected = DAMAGE[name]
    read(file)  # it was good
    change(file, **arrays)
    with pytest.raises(InputError, match=expected) as found:
        read(file)
    assert found.value.line().startswith(str(file)) and "\n" not in found.value.line()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"checkpoint_sha256": "short"}, "checkpoint_sha256"),
        ({"dtype": "int8"}, "dtype"),
        ({"said_by": "somebody"}, "said_by"),
        ({"thresholds": {"AU1": math.nan}}, "thresholds.AU1|Invalid JSON"),  # by pydantic's age
        ({"thresholds": {"AU1": math.inf}}, "thresholds.AU1|Invalid JSON"),
        ({"thresholds": {"AU1": -0.1}}, "thresholds.AU1"),
        ({"thresholds": {"AU1": 1.1}}, "thresholds.AU1"),
        ({"sha256": "cd" * 32}, "pictures are not those that it names"),
    ],
)
def test_facts_that_do_not_hold(made, file, fields, expected):
    change(file, facts=facts_with(made, **fields))
    with pytest.raises(InputError, match=expected):
        read(file)


def test_another_picture_in_its_place(made, file):
    """Hashes are of pixels: a face that was exchanged is noticed though the file is whole."""
    crops = made.crops.copy()
    crops[0] = picture(99, CROP.height_px, CROP.width_px)
    write(replace(made, crops=crops), file)
    with pytest.raises(InputError, match="pictures are not those that it names"):
        read(file)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not an .npz file"),
        (b"\xff\xd8\xff\xe0 a photo", "not an .npz file"),
        (b"PK\x03\x04 and nothing more", "not a readable .npz file"),
    ],
)
def test_something_else(tmp_path, data, expected):
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=expected) as found:
        read(path)
    assert "pickle" not in found.value.line()


def test_a_single_array(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match="not an .npz file"):
        read(tmp_path / "x.npy")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "x.npz")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


def test_whatever_happens_to_its_bytes(file, tmp_path):
    """Bits turned, ends cut off, stretches exchanged: the same content, or one line."""
    good, whole = read(file), file.read_bytes()
    rng = np.random.default_rng(11)
    refused = 0
    for k in range(300):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        if k % 3 == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif k % 3 == 1:
            del data[at:]
        else:
            data[at : at + 40], data[:40] = data[:40], data[at : at + 40]
        if k % 5 == 0:  # the directory at the end, which every reader begins with
            data[-1 - int(rng.integers(1500))] ^= 255
        path = tmp_path / "damaged.npz"
        path.write_bytes(data)
        try:
            found = read(path)
        except InputError as error:
            assert "\n" not in error.line()
            refused += 1
        else:
            same(found, good)
    assert refused > 250


@pytest.mark.parametrize(
    ("count", "rows"), [(1, [0]), (2, [0, 1]), (4, [0, 1]), (5, [0, 1, 2, 3, 4]), (9, range(5))]
)
def test_few_faces_are_those_of_the_frames(made, count, rows):
    few = made.few(count)
    np.testing.assert_array_equal(few.crops, made.crops[list(rows)])
    for name, value in few.outputs.items():
        np.testing.assert_array_equal(value, made.outputs[name][list(rows)])
    assert few.frames == made.frames[: len(few.frames)] and len(few.frame_au) == len(few.frames)
    assert len(few.au) == len(few.expression) == len(few)


def test_few_of_crops_alone_are_spread_over_them(made):
    bare = replace(made, frames=(), frame_matrix=made.frame_matrix[:0])
    few = bare.few(3)
    np.testing.assert_array_equal(few.crops, made.crops[[0, 2, 4]])
    assert few.frames == ()


def test_few_keep_the_words_about_them(made):
    bare = replace(made, frames=())
    few = bare.few(2)  # faces 0 and 4: the first and the last answer
    assert few.words.spoken.tolist() == [0, 1]
    assert few.words.answers == ((5, 6, 7), (9, 10, 11, 12))
    assert few.words.said == ("Why: ümläut 顔\n", "two  spaces")
    np.testing.assert_array_equal(few.words.logit, made.words.logit[[0, 1, 2, 4, 5, 6, 7]])
    assert len(few.words.total) == len(few.words.top) == few.words.begins[-1] == 7


def test_few_that_nothing_is_said_of(made):
    silent = replace(made, frames=(), words=replace(made.words, spoken=np.array([1, 2, 3])))
    assert silent.few(2).words is None


def test_few_are_whole(made, tmp_path):
    few = made.few(1)
    facts = few.facts.model_copy(update={"sha256": few.pictures_sha256()})
    write(replace(few, facts=facts), tmp_path / "few.npz")
    assert len(read(tmp_path / "few.npz")) == 1


def test_rounding():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 5000).astype(np.float32) * 10 ** rng.uniform(-6, 6, 5000)
    values = values.astype(np.float32)
    found = rounded(values)
    assert found.dtype == np.float32 and found.shape == values.shape
    assert (np.abs(found - values) <= np.abs(values) * 2.0**-18).all(), "half a step of 17 bits"
    assert not (found.view(np.uint32) & 0x3F).any(), "the last six bits are zero"
    np.testing.assert_array_equal(rounded(found), found)
    assert np.abs((found - values).mean()) < np.abs(values).mean() * 1e-6, "to both sides"


@pytest.mark.parametrize(
    ("bits", "expected"),
    [  # halfway to the even neighbour, beyond it up, and over the end of a mantissa
        (0x3F800020, 0x3F800000),
        (0x3F800060, 0x3F800080),
        (0x3F800021, 0x3F800040),
        (0x3FFFFFFF, 0x40000000),
        (0xBF800021, 0xBF800040),
        (0, 0),
    ],
)
def test_rounding_bit_by_bit(bits, expected):
    value = np.array([bits], np.uint32).view(np.float32)
    assert rounded(value).view(np.uint32)[0] == expected


def test_rounded_values_pack_smaller(made, tmp_path):
    plain, less = tmp_path / "plain.npz", tmp_path / "less.npz"
    write(made, plain)
    tokens = rounded(made.outputs[TOKENS])
    write(replace(made, outputs={**made.outputs, TOKENS: tokens}), less)
    assert less.stat().st_size < plain.stat().st_size - tokens.size * 2 // 5


def test_a_fingerprint_is_short_and_tells_outputs_apart(made):
    marks = golden.fingerprint(made.outputs)
    assert marks.shape == (CROPS, 20 + 8 + 17 * 256 // 64) and marks.dtype == np.float32
    np.testing.assert_array_equal(marks[:, :20], made.outputs[AU_PROBABILITY])
    np.testing.assert_array_equal(marks[:, 20:28], made.outputs[EXPRESSION])
    np.testing.assert_array_equal(marks[:, 28], made.outputs[TOKENS][:, 0, 0])
