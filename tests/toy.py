"""A bundle of the real signature that costs nothing: its answers follow from colours.

    bright picture   happiness, with AU6, AU12 and AU25; an AU12 as strong on each side as that
                     side is bright
    dark or gray     neutral, no AU
    red picture      anger, with AU4
    blue picture     sadness, with AU1 and AU15

The vision part is written with onnx alone. The language part is a LLaMA of one layer with random
weights, written by the project's own exporter, so it needs torch. `python tests/toy.py FOLDER`
writes what `FEALLM_TOY_BUNDLE` may name, for environments that have neither.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from feallm.runtime.backends import base
from feallm.runtime.contract import manifest
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, N_AUS
from feallm.runtime.contract.expressions import EXPRESSION_INDEX, EXPRESSIONS, N_EXPRESSIONS
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.regions import REGION_NAMES
from feallm.runtime.language import wording

PLAIN, WORDS, TOKENS = "plain", "words", "tokens.json"  # in the folder that `write` fills

BRIGHT, DARK, RED, BLUE = (240, 240, 240), (20, 20, 20), (230, 30, 30), (30, 30, 230)

THRESHOLDS = {"AU1": 0.4, "AU4": 0.5, "AU6": 0.6, "AU12": 0.5, "AU15": 0.5, "AU25": 0.3}
VISUAL_TOKENS, WIDTH, CONTEXT, VOCABULARY = 17, 256, 256, 512

TEXTS = (
    "Action units, expression, and why?\n",
    "AUs: AU12 lip corner puller (strong), AU25 lips part (clear)\nExpression: happiness\nWhy: ",
    "  two  spaces,\ttab, ümläut, 顔, <bos> and <eos> as text; it's 1234567",
)
"""Texts whose tokens `tokens.json` holds, as the training's own tokenizer cuts them."""


def write(folder: Path) -> None:
    """Both bundles, or the plain one alone where torch, gguf or tokenizers are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_plain(folder / PLAIN)
    try:
        write_words(folder)
    except ImportError as error:
        print(f"no toy bundle with words: {error}", file=sys.stderr)


def write_plain(folder: Path) -> None:
    """The bundle without a language model."""
    folder.mkdir()
    write_vision(folder / "vision.onnx")
    write_manifest(folder, {"vision": ("vision.onnx", "onnx", "fp32")}, None)


def write_words(folder: Path) -> None:
    """The bundle with words, and beside it the tokens of `TEXTS`."""
    import torch

    from feallm.export.gguf import export_language
    from feallm.model import tokenizer
    from feallm.model.config import LanguageConfig
    from feallm.model.language import LanguageModel

    trained = tokenizer.train([*TEXTS[:2], *wording.QUESTIONS, *EXPRESSIONS], VOCABULARY)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LanguageModel(LanguageConfig(WIDTH, 1, 4, 256, VOCABULARY, CONTEXT)).eval()
    bundle = folder / WORDS
    bundle.mkdir()
    write_vision(bundle / "vision.onnx")
    export_language(model, trained.to_str(), bundle / "language.gguf")
    files = {
        "vision": ("vision.onnx", "onnx", "fp32"),
        "language": ("language.gguf", "gguf", "fp16"),
    }
    language = {
        "artifacts": ["language"],
        "visual_tokens": VISUAL_TOKENS,
        "width": WIDTH,
        "question": wording.QUESTIONS[0],
        "max_new_tokens": 60,
        "context": CONTEXT,
    }
    write_manifest(bundle, files, language)
    tokens = {text: _plain_ids(trained.to_str(), text) for text in TEXTS}
    (folder / TOKENS).write_text(json.dumps(tokens))


def _plain_ids(trained: str, text: str) -> list[int]:
    """Tokens of a text in which the names of special tokens are plain text."""
    from tokenizers import Tokenizer

    fields = json.loads(trained)
    fields["added_tokens"] = []
    ids: list[int] = Tokenizer.from_str(json.dumps(fields)).encode(text).ids
    return ids


def write_manifest(
    folder: Path, files: dict[str, tuple[str, str, str]], language: dict[str, Any] | None
) -> None:
    """A manifest whose digest and hashes hold."""
    artifacts = {}
    for name, (file, kind, precision) in files.items():
        data = (folder / file).read_bytes()
        artifacts[name] = {
            "file": file,
            "format": kind,
            "precision": precision,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
        }
    sign(
        folder,
        {
            "schema_version": manifest.SCHEMA_VERSION,
            "name": "toy",
            "version": "0",
            "licence": "Apache-2.0",
            "geometry": {
                "width_px": CROP.width_px,
                "height_px": CROP.height_px,
                "points_px": CROP.points_px,
                "border": CROP.border,
            },
            "preprocessing": manifest.Preprocessing().model_dump(),
            "regions": REGION_NAMES,
            "aus": AU_KEYS,
            "aus_trained": list(THRESHOLDS),
            "aus_sided": [key for key in THRESHOLDS if AU_BY_KEY[key].sided],
            "expressions": EXPRESSIONS,
            "thresholds": THRESHOLDS,
            "intensity_calibrated": False,
            "artifacts": artifacts,
            "vision": ["vision"],
            "language": language,
            "training": {
                "size": "toy",
                "command": "",
                "seed": 0,
                "checkpoint_sha256": "0" * 64,
                "sources": [],
            },
            "notice": "A toy.",
        },
    )


def sign(folder: Path, fields: dict[str, Any]) -> None:
    """Write the fields as the folder's manifest, with the digest that belongs to them."""
    plain = json.loads(json.dumps(fields))
    plain["digest"] = manifest.digest(plain)
    (folder / manifest.MANIFEST).write_bytes(manifest.canonical(plain))


def write_vision(path: Path) -> None:
    """The network: colours of the whole crop and brightness of its halves, then constants."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    half = CROP.width_px // 2
    constants: dict[str, Any] = {
        "whole": np.array([1 / 255], np.float32),
        "half": np.array([half], np.int64),
        "width": np.array([CROP.width_px], np.int64),
        "none": np.array([0], np.int64),
        "third": np.array([2], np.int64),
        "shape_au": np.array([0, N_AUS, 2], np.int64),
        "shape_tokens": np.array([0, VISUAL_TOKENS, WIDTH], np.int64),
        "floor": np.array(0, np.float32),
        "ceiling": np.array(5, np.float32),
        **_weights(),
    }
    node = helper.make_node
    nodes = [
        node("Cast", [base.IMAGE], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "whole"], ["shares"]),
        node("ReduceMean", ["shares"], ["colour"], axes=[1, 2], keepdims=0),
        # The subject's right is the left of the picture.
        node("Slice", ["shares", "none", "half", "third"], ["right_half"]),
        node("Slice", ["shares", "half", "width", "third"], ["left_half"]),
        node("ReduceMean", ["right_half"], ["right"], axes=[1, 2], keepdims=0),
        node("ReduceMean", ["left_half"], ["left"], axes=[1, 2], keepdims=0),
        node("Concat", ["colour", "left", "right"], ["seen"], axis=1),
        node("Gemm", ["seen", "p_w", "p_b"], ["p"]),
        node("Sigmoid", ["p"], [base.AU_PROBABILITY]),
        node("Gemm", ["seen", "i_w", "i_b"], ["i"]),
        node("Clip", ["i", "floor", "ceiling"], ["clipped"]),
        node("Reshape", ["clipped", "shape_au"], [base.AU_INTENSITY]),
        node("Gemm", ["seen", "e_w", "e_b"], ["e"]),
        node("Softmax", ["e"], [base.EXPRESSION], axis=1),
        node("MatMul", ["seen", "t_w"], ["t"]),
        node("Tanh", ["t"], ["t_flat"]),
        node("Reshape", ["t_flat", "shape_tokens"], [base.TOKENS]),
    ]
    value, float32 = helper.make_tensor_value_info, TensorProto.FLOAT
    crop = ["faces", CROP.height_px, CROP.width_px, 3]
    graph = helper.make_graph(
        nodes,
        "toy",
        [value(base.IMAGE, TensorProto.UINT8, crop)],
        [
            value(base.AU_PROBABILITY, float32, ["faces", N_AUS]),
            value(base.AU_INTENSITY, float32, ["faces", N_AUS, 2]),
            value(base.EXPRESSION, float32, ["faces", N_EXPRESSIONS]),
            value(base.TOKENS, float32, ["faces", VISUAL_TOKENS, WIDTH]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # IR 8 and opset 13 are what the oldest allowed ONNX Runtime surely reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _weights() -> dict[str, Any]:
    """Rows: red, green, blue of the crop; of its left half; of its right half."""
    gray, red, blue = np.zeros((3, 9), np.float32)
    gray[:3] = 1 / 3
    red[:3], blue[:3] = (1, -0.5, -0.5), (-0.5, -0.5, 1)
    left, right = np.zeros((2, 9), np.float32)
    left[3:6] = right[6:9] = 1 / 3
    p_w, p_b = np.zeros((9, N_AUS), np.float32), np.full(N_AUS, -8, np.float32)
    i_w = np.zeros((9, N_AUS, 2), np.float32)
    for colour, keys in ((gray, "AU6 AU12 AU25"), (red, "AU4"), (blue, "AU1 AU15")):
        for key in keys.split():
            p_w[:, AU_INDEX[key]], p_b[AU_INDEX[key]] = 40 * colour, -24  # the border is at 0.6
            i_w[:, AU_INDEX[key], :] = 5 * colour[:, None]
    i_w[:, AU_INDEX["AU12"], 0], i_w[:, AU_INDEX["AU12"], 1] = 5 * left, 5 * right
    e_w, e_b = np.zeros((9, N_EXPRESSIONS), np.float32), np.full(N_EXPRESSIONS, -9, np.float32)
    e_b[EXPRESSION_INDEX["neutral"]] = 0
    for name, colour in (("happiness", gray), ("anger", red), ("sadness", blue)):
        e_w[:, EXPRESSION_INDEX[name]], e_b[EXPRESSION_INDEX[name]] = 40 * colour, -24
    t_w = np.random.default_rng(5).normal(0, 0.5, (9, VISUAL_TOKENS * WIDTH))
    return {
        "p_w": p_w,
        "p_b": p_b,
        "i_w": i_w.reshape(9, -1),
        "i_b": np.zeros(N_AUS * 2, np.float32),
        "e_w": e_w,
        "e_b": e_b,
        "t_w": t_w.astype(np.float32),
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]))
