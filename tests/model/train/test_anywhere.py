"""The eyes can be trained where nothing but torch, numpy, OpenCV, safetensors and tqdm is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feallm.model.data.augment import Augment
from feallm.model.train.batches import Crops, Mix, ahead

ROOT = Path(__file__).parents[3]

BARE = """
import runpy, sys
for name in (  # the rest of this environment is not there
    "pydantic typer click rich tokenizers onnx onnxruntime gguf moderngl scipy skimage mediapipe"
).split():
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_bare_environment_is_enough(packed, tmp_path):
    words = ["--size", "nano", "--pack", packed, "--out", tmp_path / "run", "--steps", 2]
    call = [sys.executable, "-c", BARE, ROOT / "tools" / "train_eyes.py", *words, "--batch", 4]
    done = subprocess.run([str(word) for word in call], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2
    assert (tmp_path / "run" / "vision.state-2.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 on forks beside threads
def test_other_processes_draw_the_same_batches(faces):
    crops = Crops(faces, torch.arange(len(faces.pictures)).numpy(), Mix())
    here, there = (
        list(ahead(crops, 3, 4, Augment(), steps=range(2, 7), workers=workers))
        for workers in (0, 2)
    )
    assert len(here) == len(there) == 5
    for mine, other in zip(here, there, strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
