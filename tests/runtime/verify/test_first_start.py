"""Ten faces at the first start: checked once for a bundle on a device, and again when either is
another; what fails, fails each time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feallm.runtime.backends import llama
from feallm.runtime.backends.base import AU_PROBABILITY
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BundleError, VerificationError
from feallm.runtime.contract.manifest import MANIFEST
from feallm.runtime.verify import first_start
from feallm.runtime.verify.first_start import FACES, check, state_folder

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))


@pytest.fixture(scope="module")
def golden(record, toy_bundle):
    return record.of(toy_bundle, record.crops(14))


@pytest.fixture
def bundle(record, toy, toy_bundle, golden, tmp_path):
    return open_bundle(record.bundle(toy_bundle, tmp_path / "bundle", toy, golden))


@pytest.fixture
def spoilt(record, toy, toy_bundle, golden, tmp_path):
    """A bundle that does not answer as its golden outputs say."""
    outputs = {**golden.outputs, AU_PROBABILITY: np.roll(golden.outputs[AU_PROBABILITY], 1, 1)}
    other = replace(golden, outputs=outputs)
    return open_bundle(record.bundle(toy_bundle, tmp_path / "spoilt", toy, other))


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def asked(monkeypatch):
    """How often, and of how many faces, a bundle was really compared."""
    calls = []

    def compare(bundle, golden, **options):
        calls.append((len(golden), options["parts"]))
        return real(bundle, golden, **options)

    real = first_start.verify
    monkeypatch.setattr(first_start, "verify", compare)
    return calls


def test_it_is_checked_once(bundle, state, asked):
    first = check(bundle, folder=state)
    assert first.now and first.file.parent == state / "checked" and first.seconds > 0
    assert bundle.digest[:16] in first.file.name
    again = check(bundle, folder=state)
    assert not again.now and again.file == first.file
    assert asked == [(FACES, ("eyes",))]


def test_what_is_kept(bundle, state):
    """Figures, and what they are of; nothing of a face, and no name of a folder."""
    text = check(bundle, folder=state).file.read_text()
    kept = json.loads(text)
    assert kept["passed"] is True and kept["about"]["bundle"] == bundle.digest
    assert kept["about"]["used"] == [["eyes", "vision"]]
    (result,) = kept["reports"][0]["results"]
    assert result["passed"] is True and len(result["lines"]) > 10
    assert result["worst"] == [] and "AU12" not in json.dumps(result)
    assert str(bundle.root) not in text and str(Path.home()) not in text


def test_another_bundle_is_checked(record, toy, toy_bundle, golden, bundle, state, asked, tmp_path):
    check(bundle, folder=state)
    folder = record.bundle(
        toy_bundle, tmp_path / "other", toy, golden, lambda fields: fields.update(version="1")
    )
    assert check(open_bundle(folder), folder=state).now
    assert not check(bundle, folder=state).now
    assert len(asked) == 2 and len(list((state / "checked").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("packages", {"onnxruntime": "99.0"}),
        ("processor", "another one"),
        ("system", "Linux riscv64"),
        ("python", "3.99.0"),
    ],
)
def test_another_device_is_checked(bundle, state, asked, monkeypatch, name, value):
    check(bundle, folder=state)
    machine = first_start.machine() | {name: value}
    monkeypatch.setattr(first_start, "machine", lambda: machine)
    assert check(bundle, folder=state).now and len(asked) == 2
    assert not check(bundle, folder=state).now


def test_another_number_of_threads_is_checked(bundle, state, asked):
    assert check(bundle, folder=state).now
    assert check(bundle, folder=state, threads=2).now
    assert not check(bundle, folder=state, threads=2).now
    assert not check(bundle, folder=state).now and len(asked) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "",
        lambda kept: "{",
        lambda kept: "[" * 100_000,
        lambda kept: "[true]",
        lambda kept: json.dumps(kept | {"passed": False}),
        lambda kept: json.dumps(kept | {"passed": "true"}),
        lambda kept: json.dumps({"passed": True}),
        lambda kept: json.dumps(kept | {"about": kept["about"] | {"bundle": "0" * 64}}),
        lambda kept: json.dumps(kept | {"about": kept["about"] | {"threads": 4}}),
        lambda kept: "\udcff",
    ],
)
def test_a_damaged_or_foreign_result_counts_for_none(bundle, state, asked, damage):
    file = check(bundle, folder=state).file
    kept = json.loads(file.read_text())
    file.write_bytes(damage(kept).encode("utf-8", "surrogateescape"))
    assert check(bundle, folder=state).now and len(asked) == 2
    assert json.loads(file.read_text())["about"] == kept["about"], "and is written over"
    assert not check(bundle, folder=state).now


def test_where_nothing_can_be_kept_it_is_checked_each_time(bundle, tmp_path, asked):
    file = tmp_path / "a file"
    file.write_text("")
    for _ in range(2):
        found = check(bundle, folder=file / "state")
        assert found.now and found.file is None
    assert len(asked) == 2


def test_a_full_disk_leaves_nothing_behind(bundle, state, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert check(bundle, folder=state).file is None
    assert list((state / "checked").iterdir()) == []


def test_what_fails_fails_each_time_and_nothing_is_kept(bundle, spoilt, state, asked):
    assert check(bundle, folder=state).now
    for _ in range(2):
        with pytest.raises(VerificationError, match="toy does not answer on this device") as found:
            check(spoilt, folder=state)
        line = found.value.line()
        assert "vision: " in line and "the order of the AUs is shifted" in line
        assert f"feallm verify {spoilt.root}" in line
    assert len(asked) == 3 and len(list((state / "checked").iterdir())) == 1


def test_without_golden_outputs_or_tolerances_there_is_nothing_to_check(
    record, toy, toy_bundle, golden, state, tmp_path
):
    assert check(open_bundle(toy_bundle), folder=state) is None
    plain = record.bundle(toy_bundle, tmp_path / "plain", toy, golden, tolerances=False)
    assert check(open_bundle(plain), folder=state) is None
    assert not state.exists()


def test_golden_outputs_that_cannot_be_read(record, toy, toy_bundle, golden, state, tmp_path):
    folder = record.bundle(toy_bundle, tmp_path / "bundle", toy, golden)
    fields = json.loads((folder / MANIFEST).read_bytes())
    (folder / "golden.npz").write_bytes(b"nothing")
    record.add(folder, fields, "golden.npz", "npz")
    toy.sign(folder, fields)
    with pytest.raises(BundleError, match="golden.npz: not an .npz file"):
        check(open_bundle(folder), folder=state)


@pytest.fixture
def speaking(record, toy, toy_bundle_with_words, tmp_path):
    spoken = record.of(toy_bundle_with_words, record.crops(4), answers=2)
    return open_bundle(record.bundle(toy_bundle_with_words, tmp_path / "says", toy, spoken))


@needs_llama
def test_words_are_checked_where_they_will_be_used(speaking, state, asked):
    assert check(speaking, folder=state).now
    assert check(speaking, folder=state, words=True).now
    assert not check(speaking, folder=state, words=True).now
    assert [parts for _, parts in asked] == [("eyes",), ("eyes",), ("words",)]


@needs_llama
def test_words_that_nothing_golden_is_known_of(
    record, toy, toy_bundle_with_words, state, asked, tmp_path
):
    """Where the few faces are others than those that are spoken of, the eyes are checked alone."""
    golden = record.of(toy_bundle_with_words, record.crops(4))
    folder = record.bundle(toy_bundle_with_words, tmp_path / "mute", toy, golden)
    assert check(open_bundle(folder), folder=state, words=True).now
    assert [parts for _, parts in asked] == [("eyes",)]


@needs_llama
def test_words_alone_with_nothing_golden_are_not_said_to_be_checked(
    record, toy, toy_bundle_with_words, state, tmp_path
):
    def unlimited(fields):
        fields["artifacts"]["vision"]["tolerance"] = {}

    golden = record.of(toy_bundle_with_words, record.crops(4))
    folder = record.bundle(toy_bundle_with_words, tmp_path / "mute", toy, golden, unlimited)
    assert check(open_bundle(folder), folder=state, words=True) is None
    assert not state.exists()


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has a folder of its own")


@posix
@pytest.mark.parametrize(
    ("service", "state", "expected"),
    [
        ("/var/lib/kiosk", "/home/a/state", "/var/lib/kiosk"),
        ("/var/lib/kiosk:/var/lib/other", None, "/var/lib/kiosk"),
        (None, "/home/a/state", "/home/a/state/feallm"),
        (None, None, "/home/b/.local/state/feallm"),
        (None, "", "/home/b/.local/state/feallm"),
        (None, "here", "/home/b/.local/state/feallm"),  # relative: to be ignored
    ],
)
def test_where_results_are_kept(monkeypatch, service, state, expected):
    monkeypatch.setenv("HOME", "/home/b")
    for name, value in (("STATE_DIRECTORY", service), ("XDG_STATE_HOME", state)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert state_folder() == Path(expected)


@posix
def test_a_user_without_a_home(bundle, asked, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert state_folder() is None
    for _ in range(2):
        found = check(bundle)
        assert found.now and found.file is None
    assert len(asked) == 2


def test_a_service_keeps_it_in_its_own_folder(bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "service"))
    found = check(bundle)
    assert found.file.is_relative_to(tmp_path / "service") and found.file.is_file()
