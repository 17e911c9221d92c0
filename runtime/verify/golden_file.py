"""The file of golden outputs, a plain `.npz`: `feallm reference record` writes it, `feallm verify`
reads it.

Arrays, N crops, F frames, M answers:

    facts            JSON: what model, device, versions, seed and settings answered
    frames           encoded pictures end to end, cut at frames_at (F+1)
    frame_matrix     (F, 2, 3) float64: from a frame's pixels to its crop's; NaN: no face found
    frame_au         (F, 20), frame_expression (F, 8) float32: of the whole way, both looks
    crops            PNG pictures end to end, cut at crops_at (N+1); gray where all colours are one
    out.NAME         an output of `backends.base`, float32, N rows
    au, expression   (N, 20) labels 0–5, NaN unknown; (N,) int, -1 unknown
    spoken           (M,) rows of the crops that the words are of
    question         tokens; answer: tokens end to end, cut at answer_at (M+1); said: JSON, texts
    cut              tokens of the texts as the model's tokenizer cuts them, each text at cut_at
    top, logit       (T, K) the likeliest K tokens at every place of the answers, and their logits
    total            (T,) log of the sum of the exponentials of all logits
    fault.NAME       outputs of the same model with a known fault, on the first crops: `causes`
    trace.NAME       what single layers answered: `trace`
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from feallm.runtime.backends.base import ALL_OUTPUTS
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import BackendError, InputError
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.contract.manifest import Part
from feallm.runtime.verify import trace
from feallm.runtime.verify.golden import (
    Arrays,
    Facts,
    Floats,
    Golden,
    Words,
    decoded,
    rounded,
)
from feallm.runtime.vision import decode

_ZIP = b"PK\x03\x04"
OUT, FAULT, TRACE = "out.", "fault.", "trace."

_AREAS = 1e-6, 1e6
"""Of a pixel of the frame, in the crop: what no camera's frame exceeds, and matrices that cannot be
turned back do."""
_FURTHEST_PX = 1e6


def write(golden: Golden, path: Path) -> None:
    """The file, the same bytes for the same content; to be renamed into place by who calls."""
    arrays: Arrays = {
        "facts": _text(golden.facts.model_dump_json()),
        **_ends("frames", golden.frames),
        "frame_matrix": golden.frame_matrix,
        "frame_au": golden.frame_au,
        "frame_expression": golden.frame_expression,
        **_ends("crops", [_png(crop) for crop in golden.crops]),
        "au": golden.au,
        "expression": golden.expression.astype(np.int8),
        **{OUT + name: value for name, value in golden.outputs.items()},
        **{FAULT + name: value for name, value in golden.faults.items()},
        **{
            TRACE + name: rounded(value) if value.dtype == np.float32 else value
            for name, value in golden.layers.items()
        },
    }
    if (words := golden.words) is not None:
        arrays |= {
            "spoken": words.spoken.astype(np.int32),
            "question": np.array(words.question, np.int32),
            "answer": np.array([token for one in words.answers for token in one], np.int32),
            "answer_at": words.begins.astype(np.int32),
            "said": _text(json.dumps(words.said, ensure_ascii=False)),
            "cut": np.array([token for one in words.cut for token in one], np.int32),
            "cut_at": np.cumsum([0, *map(len, words.cut)]).astype(np.int32),
            "top": words.top.astype(np.uint16),
            "logit": words.logit,
            "total": words.total,
        }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, value in arrays.items():
            data = io.BytesIO()
            np.save(data, np.ascontiguousarray(value), allow_pickle=False)
            # A fixed date: np.savez writes today's, and bytes would differ from day to day.
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue())


def read(path: Path) -> Golden:
    """The golden outputs in a file; `InputError` says what is wrong with it."""
    arrays = _arrays(path)
    try:
        return _golden(arrays)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "facts"
        raise InputError(f"{path}: {where}: {first['msg']}") from error
    except KeyError as error:
        raise InputError(f"{path}: no golden outputs: it has no {error}") from error
    except (BackendError, InputError) as error:
        raise InputError(f"{path}: {error.message}") from error
    except (ValueError, IndexError, TypeError, RecursionError, cv2.error) as error:
        raise InputError(f"{path}: {error}") from error


def _arrays(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:  # NumPy would speak of pickles
                raise InputError(f"{path}: not an .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                found: Arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in as many ways as it has readers
        raise InputError(f"{path}: not a readable .npz file: {error}") from error
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"{path}: {name} is no array")
    return found


def _golden(arrays: Arrays) -> Golden:
    facts = Facts.model_validate_json(arrays["facts"].tobytes())
    frames = tuple(_cut("frames", arrays))
    for k, data in enumerate(frames):
        decoded(data, f"frame {k}")
    pngs = _cut("crops", arrays)
    if not pngs:
        raise ValueError("it holds no faces")
    crops = np.stack([decoded(data, f"crop {k}") for k, data in enumerate(pngs)])
    count = len(crops)
    outputs = {
        name: _shaped(OUT + name, arrays, (count, None))
        for name in ALL_OUTPUTS
        if OUT + name in arrays
    }
    decode.check(outputs, count)
    found = Golden(
        facts,
        frames,
        _matrix(arrays, len(frames)),
        _shaped("frame_au", arrays, (len(frames), N_AUS)),
        _shaped("frame_expression", arrays, (len(frames), N_EXPRESSIONS)),
        crops,
        outputs,
        _shaped("au", arrays, (count, N_AUS), finite=False),
        _shaped("expression", arrays, (count,)).astype(np.int64),
        _words(arrays, count) if "spoken" in arrays else None,
        {k.removeprefix(FAULT): _fault(k, arrays, count) for k in arrays if k.startswith(FAULT)},
        {k.removeprefix(TRACE): v for k, v in arrays.items() if k.startswith(TRACE)},
    )
    for part in get_args(Part):
        trace.unpack(found.layers, part)
    if len(frames) > count:
        raise ValueError(f"{len(frames)} frames, yet only {count} crops")
    if (stated := facts.sha256) != found.pictures_sha256():
        raise ValueError(f"its pictures are not those that it names ({stated[:12]}…)")
    return found


def _words(arrays: Arrays, count: int) -> Words:
    spoken = _whole("spoken", arrays, 1)
    ends = _whole("answer_at", arrays, 1).tolist()
    tokens = _whole("answer", arrays, 1).tolist()
    said = json.loads(arrays["said"].tobytes())
    if ends[:1] != [0] or ends != sorted(ends) or ends[-1] != len(tokens):
        raise ValueError("answer_at does not cut the answers")
    if not len(spoken) == len(said) == len(ends) - 1 or not all(isinstance(s, str) for s in said):
        raise ValueError(f"{len(spoken)} answers, {len(said)} texts and {len(ends) - 1} cuts")
    cuts = _whole("cut_at", arrays, 1).tolist()
    pieces = _whole("cut", arrays, 1).tolist()
    if cuts[:1] != [0] or cuts != sorted(cuts) or cuts[-1] != len(pieces):
        raise ValueError("cut_at does not cut the texts")
    if len(cuts) not in (1, len(said) + 1):
        raise ValueError(f"{len(said)} texts, {len(cuts) - 1} of them in tokens")
    if not len(spoken) or not np.diff(ends).all():
        raise ValueError("an answer has no tokens" if len(spoken) else "words without answers")
    if spoken.max() >= count:
        raise ValueError("an answer is about no crop")
    top = _whole("top", arrays, 2)
    places, likeliest = top.shape
    if not likeliest:
        raise ValueError("top holds no tokens")
    if places != len(tokens):
        raise ValueError(f"logits of {places} places, answers of {len(tokens)} tokens")
    return Words(
        spoken,
        tuple(_whole("question", arrays, 1).tolist()),
        tuple(tuple(tokens[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)),
        tuple(said),
        top,
        _shaped("logit", arrays, (places, likeliest)),
        _shaped("total", arrays, (places,)),
        tuple(tuple(pieces[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)),
    )


def _shaped(
    name: str,
    arrays: Mapping[str, NDArray[Any]],
    shape: tuple[int | None, ...],
    finite: bool = True,
) -> Floats:
    """An array as float32; None at the end stands for any further axes. Not finite: may hold NaN,
    where nothing is known."""
    value = arrays[name]
    open_end = shape[-1:] == (None,)
    wanted = shape[:-1] if open_end else shape
    if value.shape[: len(wanted)] != wanted or (not open_end and value.ndim != len(wanted)):
        raise ValueError(f"{name} is {value.shape}, expected {shape}")
    if value.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {value.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        found = np.asarray(value, np.float32)
    if np.isinf(found).any() or (finite and np.isnan(found).any()):
        raise ValueError(f"{name} is not finite")
    return found


def _whole(name: str, arrays: Arrays, axes: int) -> NDArray[np.int64]:
    """An array of whole numbers from zero on."""
    value = arrays[name]
    if value.ndim != axes or value.dtype.kind not in "iu" or value.min(initial=0) < 0:
        raise ValueError(f"{name} is {value.dtype} {value.shape}, expected whole numbers from 0 on")
    return value.astype(np.int64)


def _fault(name: str, arrays: Arrays, count: int) -> Floats:
    value = _shaped(name, arrays, (len(arrays[name]), None))
    if value.ndim != 2 or not 0 < len(value) <= count or not value.size:
        raise ValueError(f"{name} is {value.shape}, expected answers of 1 to {count} crops")
    return value


def _matrix(arrays: Arrays, count: int) -> NDArray[np.float64]:
    _shaped("frame_matrix", arrays, (count, 2, 3), finite=False)
    # Not by float32, in which a shift of 200 px loses a hundredth.
    found = np.asarray(arrays["frame_matrix"], np.float64)
    for k, matrix in enumerate(found):
        if np.isnan(matrix).all():
            continue
        (a, b, right), (c, d, down) = matrix.tolist()  # NumPy's own numbers would warn of inf
        area = abs(a * d - b * c)
        near = abs(right) < _FURTHEST_PX and abs(down) < _FURTHEST_PX
        if not (_AREAS[0] <= area <= _AREAS[1] and near):
            raise ValueError(f"frame_matrix {k} lays no frame over a crop")
    return found


def _ends(name: str, parts: Sequence[bytes]) -> Arrays:
    ends = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    return {name: np.frombuffer(b"".join(parts), np.uint8), f"{name}_at": ends}


def _cut(name: str, arrays: Arrays) -> list[bytes]:
    data, ends = arrays[name], _whole(f"{name}_at", arrays, 1).tolist()
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"{name} is {data.dtype} {data.shape}, expected uint8 [bytes]")
    if ends[:1] != [0] or ends != sorted(ends) or ends[-1] != len(data):
        raise ValueError(f"{name}_at does not cut {name}")
    return [data[a:b].tobytes() for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _png(crop: NDArray[np.uint8]) -> bytes:
    gray = (crop == crop[..., :1]).all()
    picture = crop[..., 0] if gray else cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    best = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    done, data = cv2.imencode(".png", picture, best)
    if not done:
        raise InputError("OpenCV could not write a PNG")
    return data.tobytes()


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)
