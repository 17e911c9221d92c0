"""`feallm bench` with a stand-in: the keys of its last line, and its errors."""

import json
from types import SimpleNamespace

import pytest

KEYS = {
    "vision_ms", "detect_ms", "frame_ms", "first_word_ms", "tokens_per_s", "rss_mb", "startup_s",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    monkeypatch.setattr("feallm.edge.bench.startup_s", lambda request, picture: 1.5)


def test_the_last_line(feallm, fake, photo, tmp_path):
    code, out, err = feallm("bench", photo(tmp_path / "x.png", 20), "--runs", 7)
    found = json.loads(out.splitlines()[-1])
    assert code == 0 and err == "" and KEYS <= set(found)
    assert found["vision_ms"] == 2.0 and found["startup_s"] == 1.5 and found["rss_mb"] > 20
    assert found["first_word_ms"] is None and found["tokens_per_s"] is None
    assert found["detect_ms"] > 0 and found["frame_ms"] > 0 and found["runs"] == 7
    assert "llama-cpp-python is not installed" in out and "p95" in out


def test_words_are_timed_where_there_are_any(feallm, fake, photo, tmp_path):
    fake.words_missing = None
    fake.language = SimpleNamespace(last_first_word_ms=40.0, last_tokens_per_s=None)
    code, out, _ = feallm("bench", photo(tmp_path / "x.png", 20), "--runs", 1, "--json")
    found = json.loads(out)
    assert code == 0 and found["first_word_ms"] == 40.0 and found["tokens_per_s"] is None
    assert found["words_ms"] == 30.0


def test_a_picture_without_a_face_or_no_picture(feallm, fake, photo, tmp_path):
    code, _, err = feallm("bench", photo(tmp_path / "x.png"))
    assert code == 3 and "no face" in err and err.count("\n") == 1
    code, _, err = feallm("bench", tmp_path / "missing.png")
    assert code == 3 and err.count("\n") == 1
