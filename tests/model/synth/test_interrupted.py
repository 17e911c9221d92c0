"""Ctrl-C and a process that dies: nobody waits, and the same call goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from feallm.model.data.pack import INDEX


@pytest.fixture
def drawing(opengl, toy_file, tmp_path):
    """`feallm data render` of many faces, as a terminal starts it, once its processes are there."""
    started = []
    out = tmp_path / "pack"

    def start():
        words = ["--n", "8000", "--seed", "1", "--out", out, "--head", toy_file, "--workers", "2"]
        call = [sys.executable, "-m", "feallm.edge.cli", "data", "render", *words]
        process = subprocess.Popen(
            [str(word) for word in (*call, "--data", tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A job that a script starts in the background ignores Ctrl-C, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        for _ in range(600):
            if len(children(process.pid)) >= 2:
                return process, out
            time.sleep(0.1)
        raise AssertionError("it never began to draw")

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def children(pid):
    """Processes that draw for `pid`."""
    call = ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(pid)]
    lines = subprocess.run(call, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "spawn_main" in line]


def test_ctrl_c(drawing):
    process, out = drawing()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1].endswith("the same call goes on") and "Traceback" not in err
    assert not (out / INDEX).exists()


def test_a_process_that_dies(drawing):
    process, out = drawing()
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "ended before its time" in err.splitlines()[-1] and "Traceback" not in err
    assert not (out / INDEX).exists()
