"""ONNX Runtime's own telemetry: nothing is stored, so nothing is sent."""

import os
import subprocess
import sys

READ = """
import sys
from pathlib import Path
import numpy as np
from feallm.runtime.analyze import Analyzer
with Analyzer(Path(sys.argv[1]), detect=False) as analyzer:
    analyzer.read(np.zeros((128, 112, 3), np.uint8))
"""


def test_reading_a_face_leaves_nothing_at_home(toy_bundle, tmp_path):
    """Without the switch ONNX Runtime 1.29 and later write a device id and an event store there.

    They also stay quiet by themselves where they see a CI service or a test run: what those are
    known by is taken out of the environment.
    """
    known = ("CI", "GITHUB", "GITLAB", "BUILD", "JENKINS", "TF_", "TRAVIS", "PYTEST", "ORT_", "XDG")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(known)}
    environment["HOME"] = str(tmp_path)
    command = [sys.executable, "-I", "-c", READ, str(toy_bundle)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == []
    assert "telemetry" not in done.stderr
