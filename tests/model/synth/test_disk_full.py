"""A disk that is full: one line, and nothing left that looks like a pack."""

import errno
import os
import pickle
import resource

import numpy as np
import pytest

from feallm.model.data.pack import INDEX
from feallm.model.synth import pack
from feallm.runtime.contract.errors import InputError, UsageError


def full(*given, **more):
    """What writing does then."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(path, **arrays):
    """A part that ends in the middle."""
    path.write_bytes(b"half a part")
    full()


replace = os.replace


def full_for_parts(old, new):
    """The plan is written, no part is."""
    if str(new).endswith(".npz"):
        full()
    replace(old, new)


WHERE = {
    "nothing is written": (np, "savez", full),
    "half is written": (np, "savez", half),
    "a part cannot be renamed": (os, "replace", full_for_parts),
}


@pytest.mark.parametrize("module, name, instead", WHERE.values(), ids=WHERE.keys())
def test_no_part_and_no_pack_is_left(make, tmp_path, monkeypatch, module, name, instead):
    out = tmp_path / "pack"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, instead)
        with pytest.raises(InputError, match=r"renders-0000.npz: cannot be written: No space") as e:
            make(out, n=4)
    assert "\n" not in e.value.line()
    assert [path.name for path in out.iterdir()] == [pack.PLAN]
    make(out, n=4)  # with space again it goes on
    assert (out / INDEX).is_file()


def test_the_plan_cannot_be_written(make, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match="cannot be written: No space"):
        make(tmp_path / "pack", n=4)
    assert not list((tmp_path / "pack").glob("*.json"))


def test_the_index_cannot_be_written(make, tmp_path, monkeypatch):
    def full_for_the_index(old, new):
        if str(new).endswith(INDEX):
            full()
        replace(old, new)

    monkeypatch.setattr(os, "replace", full_for_the_index)
    with pytest.raises(UsageError, match="cannot be written: No space"):
        make(tmp_path / "pack", n=4)
    assert not (tmp_path / "pack" / INDEX).exists()


def test_a_file_that_may_not_grow(tmp_path):
    """The kernel's own refusal, in the middle of an array."""
    arrays = {"small": np.zeros(10, np.uint8), "large": np.zeros(2**20, np.uint8)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written: File too large"):
            pack.save(tmp_path / "renders-0000.npz", arrays)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
    pack.save(tmp_path / "renders-0000.npz", arrays)
    assert [path.name for path in tmp_path.iterdir()] == ["renders-0000.npz"]


def test_the_line_comes_whole_from_another_process():
    told = InputError("a part: cannot be written: No space left on device", hint="make some")
    assert pickle.loads(pickle.dumps(told)).line() == told.line()
