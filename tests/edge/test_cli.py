"""The command as a whole: help, start-up, errors, and verbs that others bring."""

import os
import subprocess
import sys
import time

import pytest

from feallm.runtime.contract.errors import BundleError

FEALLM = [sys.executable, "-m", "feallm.edge.cli"]

MODULE = {
    "fine.py": "import typer\napp = typer.Typer()\n\n"
    "@app.command()\ndef run(name: str, loud: bool = False):\n    print('trained', name, loud)\n",
    "lacks.py": "import typer\napp = typer.Typer()\n\n"
    "@app.command()\ndef run():\n    import no_such_library.inside\n",
    "broken.py": "raise RuntimeError('loaded too early')\n",
}


@pytest.fixture
def workshop(tmp_path):
    """An environment with one installed package that brings verbs."""
    for name, text in MODULE.items():
        (tmp_path / f"verbs_{name}").write_text(text)
    info = tmp_path / "verbs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: verbs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[feallm.commands]\n"
        "train = verbs_fine:app\nexport = verbs_lacks:app\nzoo = verbs_broken:app\n"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "100"}


def run(*words, env=None):
    return subprocess.run(
        [*FEALLM, *words], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_the_device_first_and_loads_no_verb(workshop):
    shown = run("--help", env=workshop)
    assert shown.returncode == 0, shown.stderr
    device, workshop_ = (
        [shown.stdout.index(f" {verb} ") for verb in verbs]
        for verbs in (("analyze", "bench", "bundle", "version"), ("train", "export", "zoo"))
    )
    assert max(device) < min(workshop_) and workshop_ == sorted(workshop_)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from feallm.edge import cli; sys.argv = ['feallm', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'pydantic', 'torch', 'llama_cpp', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.slow
def test_help_answers_at_once():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert sorted(times)[2] < 0.5


def test_a_verb_of_the_workshop_runs(workshop):
    done = run("train", "--loud", "nano", env=workshop)
    assert (done.returncode, done.stdout) == (0, "trained nano True\n"), done.stderr
    assert "--loud" in run("train", "--help", env=workshop).stdout


def test_a_missing_extra_is_one_line(workshop):
    done = run("export", env=workshop)
    assert done.returncode == 5 and done.stderr.count("\n") == 1
    assert "no_such_library" in done.stderr and "feallm-edge[export]" in done.stderr


def test_a_broken_verb_is_one_line_and_does_not_break_the_others(workshop):
    done = run("zoo", env=workshop)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "too early" in done.stderr
    loud = run("zoo", env={**workshop, "FEALLM_DEBUG": "1"})
    assert loud.returncode == 1 and "Traceback" in loud.stderr
    assert run("version", env=workshop).returncode == 0


@pytest.mark.parametrize("words", [["no-such-verb"], ["analyze"], ["bench", "--runs", "0"]])
def test_usage(words):
    assert run(*words).returncode == 2


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BundleError("no manifest\nhere", hint="look"), 4, "feallm: no manifest here (look)\n"),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError("much"), 1, "feallm: unexpected MemoryError: much (FEALLM_DEBUG=1"),
    ],
)
def test_errors_become_one_line_and_a_code(
    feallm, fake, photo, tmp_path, monkeypatch, error, code, told
):
    def fail(request):
        raise error

    monkeypatch.setattr("feallm.edge.analyze.open_analyzer", fail)
    found, out, err = feallm("analyze", photo(tmp_path / "x.png", 20))
    assert (found, out) == (code, "") and err.startswith(told) and err.count("\n") <= 1


def test_version(feallm):
    import feallm as front

    for word in ("version", "--version"):
        assert feallm(word)[:2] == (0, f"{front.__version__}\n")
