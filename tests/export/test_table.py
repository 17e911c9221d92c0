"""The table of artifacts: every figure stands where its head says."""

from feallm.export import table
from feallm.export.profiles import EVERYTHING, PROFILES

ERROR = {"max": 2.5e-2, "mean": 1e-3, "relative": 6e-3}


def found():
    one = {
        "faces": 500,
        "au_f1": 0.98312,
        "aus": 18,
        "worst_au": "AU14",
        "worst_au_f1": 0.945,
        "au_decisions_same": 0.999,
        "expression_same": 0.992,
        "error": {"au_probability": ERROR, "au_intensity": ERROR, "tokens": ERROR},
    }
    words = {"mean": 2.1e-5, "median": 1e-6, "tail": 1e-3, "share": 0.9991, "tokens": 4321}
    return {
        "machine": {"processor": "A", "cores": 2, "packages": {"torch": "2.13.0"}},
        "artifacts": [
            {
                "file": "vision.int8.onnx", "format": "onnx", "precision": "int8", "mb": 4.819,
                "ms": {"1": 2.049, "2": 1.5}, "on": {"valid": one, "held-out renders": one},
            },
            {
                "file": "feallm.8da4w.pte", "format": "pte", "precision": "8da4w", "mb": 7.5,
                "tokens_per_s": {"1": 500.4}, "words": words,
                "on": {"valid": one | {"au_f1": None, "worst_au": None, "worst_au_f1": None}},
            },
        ],
    }  # fmt: skip


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_figures_stand_under_their_heads():
    eyes, _, words, _ = table.markdown({**found(), "artifacts": found()["artifacts"][:1]}).split(
        "\n\n"
    ) + [""]
    assert "CPU" not in eyes and words == "A, 2 cores; torch 2.13.0."
    head, _, row = (cells(line) for line in eyes.splitlines())
    told = dict(zip(head, row, strict=True))
    assert told["MB"] == "4.82" and told["ms, 1 thread"] == "2.05" and told["2"] == "1.50"
    assert told["AU prob."] == "2.5e-02" and told["tokens"] == "6.0e-03"
    assert told["valid: mean F1"] == "0.983" and told["held-out renders: mean F1"] == "0.983"
    assert row[0].startswith("vision.int8.onnx (laptop")
    assert "0.945 AU14" in row


def test_what_was_not_measured_is_a_dash():
    everything = found()
    everything["artifacts"][1]["on"]["held-out renders"] = everything["artifacts"][0]["on"]["valid"]
    text = table.markdown(everything)
    whole = next(line for line in text.splitlines() if "feallm.8da4w.pte" in line)
    assert cells(whole)[2:4] == ["–", "–"] and "– |" in whole
    words = [line for line in text.splitlines() if "feallm.8da4w.pte" in line][1]
    assert cells(words)[2:4] == ["500", "–"] and "2.1e-05" in words and "0.9991" in words


def test_every_profile_takes_files_that_can_be_made():
    for plan in PROFILES:
        assert set(plan.files) <= set(EVERYTHING.files), plan.name
        assert set(plan.without_words().files) <= set(EVERYTHING.files), plan.name
        assert not plan.without_words().language
