"""Nothing of OpenCV's on stderr, in whatever thread, and its own level again afterwards."""

from __future__ import annotations

import threading

import cv2
import pytest

from feallm.runtime.capture import quiet as module
from feallm.runtime.capture.quiet import quiet

LOUD = 3  # OpenCV's level for warnings


@pytest.fixture(autouse=True)
def level():
    """Asks for OpenCV's level; sets it to warnings first, and back in the end."""
    before = module._set_log_level(LOUD)

    def now():
        found = module._set_log_level(LOUD)
        module._set_log_level(found)
        return found

    yield now
    module._set_log_level(before)


def complain():
    """What OpenCV warns of."""
    cv2.imread("no such picture.png")


def test_the_complaint_is_one(capfd):
    complain()
    assert "no such picture" in capfd.readouterr().err


def test_it_is_silent_inside_and_speaks_again(capfd, level):
    with quiet():
        complain()
        assert level() == 0
    assert capfd.readouterr().err == "" and level() == LOUD
    complain()
    assert capfd.readouterr().err


def test_one_inside_another(level):
    with quiet():
        with quiet():
            pass
        assert level() == 0
    assert level() == LOUD


def test_an_error_does_not_leave_it_silent(level):
    with pytest.raises(ValueError, match="broken"), quiet():
        raise ValueError("broken")
    assert level() == LOUD


def test_threads_that_overlap_leave_the_level_as_it_was(level):
    """The first one in goes first out: restoring then would be too early, and remembering at the
    second one's entry too late."""
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with quiet():
            inside.set()
            assert leave.wait(5)

    with quiet():
        other = threading.Thread(target=stay)
        other.start()
        assert inside.wait(5)
    assert level() == 0  # the other one still wants silence
    leave.set()
    other.join(5)
    assert level() == LOUD


def test_many_threads(level):
    start = threading.Barrier(8)
    heard = []

    def work():
        start.wait(5)
        for _ in range(200):
            with quiet():
                heard.append(module._users.count > 0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(heard) == 1600 and all(heard)
    assert module._users.count == 0 and level() == LOUD
