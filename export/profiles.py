"""The machines that are known by name, and what each of them gets.

Why each file: the table in docs/artifacts.md. Sizes and memory are limits that an export is held
to, not wishes: `bundle` refuses what is larger.
"""

from __future__ import annotations

from feallm.export.matrix import EXPORTERS
from feallm.export.plan import Plan

PROFILES: tuple[Plan, ...] = (
    Plan(
        name="laptop",
        memory_mb=600,
        size_mb=40,
        vision=("vision.int8.onnx",),
        language=("language.q8_0.gguf",),
    ),
    Plan(
        # A GPU adds up float16 in float32; the processor's own cores are fastest in int8.
        name="jetson-orin",
        providers=("tensorrt", "cuda", "cpu"),
        memory_mb=2000,
        size_mb=40,
        minimum_os="JetPack 6",
        vision=("vision.fp16.onnx", "vision.int8.onnx"),
        only_on={"vision.fp16.onnx": ("tensorrt", "cuda")},
        language=("language.q8_0.gguf",),
    ),
    Plan(
        name="jetson-nano",
        memory_mb=400,
        size_mb=20,
        minimum_os="JetPack 6",
        vision=("vision.int8.onnx",),
        language=("language.q4_k_m.gguf",),
    ),
    Plan(
        name="android",
        memory_mb=400,
        size_mb=30,
        minimum_os="Android 6 (API 23)",
        vision=("feallm.8da8w.pte", "vision.int8.onnx"),
        language=("feallm.8da8w.pte", "language.q4_k_m.gguf"),
    ),
    Plan(
        name="ios",
        memory_mb=400,
        size_mb=30,
        minimum_os="iOS 18",
        vision=("vision.fp16.mlpackage", "feallm.8da8w.pte"),
        language=("language.fp16.mlpackage", "feallm.8da8w.pte"),
    ),
)

EVERYTHING = Plan(
    name="all",
    memory_mb=4000,
    size_mb=400,
    vision=tuple(sorted(name for name, one in EXPORTERS.items() if "vision" in one.parts)),
    language=tuple(sorted(name for name, one in EXPORTERS.items() if "language" in one.parts)),
)
"""All that can be made: what `feallm export --all` measures."""
