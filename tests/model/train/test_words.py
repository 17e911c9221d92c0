"""The words' stages: what a text may say, targets that hold answers only, resuming bit for bit."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from feallm.model.train import words
from feallm.model.train.run import Plan
from feallm.model.vision import Seen
from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.expressions import EXPRESSIONS

RECIPE = words.WordsRecipe(batch=4)


class Stopped(Exception):
    """As Ctrl-C would, but for the tests alone."""


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer.from_str(tiny.tokenizer_json())


def seen(probability, intensity, expression):
    """Head outputs of one face; `intensity` (left, right) by AU."""
    au = torch.full((1, N_AUS), -9.0)
    sides = torch.zeros(1, N_AUS, 2)
    for key, value in probability.items():
        au[0, AU_INDEX[key]] = float(np.log(value / (1 - value)))
    for key, value in intensity.items():
        sides[0, AU_INDEX[key]] = torch.tensor(value)
    logits = torch.zeros(1, 8)
    logits[0, EXPRESSIONS.index(expression)] = 3
    return Seen(au, sides, logits, torch.zeros(1), torch.zeros(1))


def test_texts_say_what_the_heads_read():
    thresholds = {"AU1": 0.5, "AU12": 0.5, "AU25": 0.4}
    faces = seen(
        {"AU1": 0.55, "AU12": 0.7, "AU25": 0.9, "AU4": 0.99},
        {"AU12": (4.5, 1.0), "AU25": (2.5, 2.5)},
        "contempt",
    )
    ((aus, expression),) = words.read_heads(faces, thresholds)
    assert expression == "contempt"
    # AU1 is too near its threshold, AU4 was not trained.
    assert [(au.key, au.degree, au.one_sided) for au in aus] == [
        ("AU12", "strong", True),
        ("AU25", "clear", False),
    ]


def test_a_threshold_near_one_can_still_be_passed():
    ((aus, _),) = words.read_heads(seen({"AU12": 0.96}, {}, "neutral"), {"AU12": 0.9})
    assert [au.key for au in aus] == ["AU12"]


def test_targets_hold_answers_only(tokenizer):
    rows = [([5, 6], [7, 8, 2]), ([9], [2])]
    tokens, targets = words.pad(rows, tokenizer)
    assert tokens.tolist() == [[5, 6, 7, 8, 2], [9, 2, 0, 0, 0]]
    skip = words.IGNORE
    assert targets.tolist() == [[skip, skip, 7, 8, 2], [skip, 2, skip, skip, skip]]


@torch.no_grad()
def test_the_loss_is_the_mean_over_all_answer_tokens(tiny, tokenizer):
    """Against one row at a time, without padding."""
    language = tiny.language()
    torch.manual_seed(0)
    prefix = torch.randn(5, 18, 256) * 0.1
    rng = np.random.default_rng(0)
    rows = [
        (rng.integers(3, 300, rng.integers(2, 9)).tolist(), rng.integers(3, 300, n).tolist())
        for n in (3, 20, 7, 1, 12)
    ]
    total = 0.0
    for k, (question, answer) in enumerate(rows):
        ids = torch.tensor([question + answer])
        logits = language(torch.cat([prefix[k : k + 1], language.embed(ids)], 1))[0]
        start = 18 + len(question) - 1
        chosen = logits[start : start + len(answer)].log_softmax(1)
        total -= float(chosen[range(len(answer)), answer].sum())
    expected = total / sum(len(answer) for _, answer in rows)
    assert float(words.answer_loss(language, prefix, rows, tokenizer)) == pytest.approx(
        expected, rel=1e-4
    )


def test_chances_are_shares_of_labelled_faces(faces):
    from feallm.model.data import ferplus

    found = words.au_chances(faces)
    assert found.shape == (8, N_AUS) and ((found > 0.049) & (found < 0.851)).all()
    winner, sides = ferplus.classes(faces.votes), faces.au_sides[:, AU_INDEX["AU12"]].max(1)
    rows = (winner == 1) & np.isfinite(sides)
    share = (sides[rows] >= 1).mean()
    assert found[1, AU_INDEX["AU12"]] == pytest.approx(0.8 * share + 0.05)
    assert found[1, AU_INDEX["AU4"]] == pytest.approx(0.05)  # never labelled


def texts(tiny, tokenizer, faces, folder, plan):
    chances = words.au_chances(faces)
    return words.train_text(tiny.CONFIG, tokenizer, chances, tiny.TRAINED, folder, plan, RECIPE)


def test_resuming_text_is_bit_equal(tiny, tokenizer, faces, tmp_path, monkeypatch):
    plan = Plan(6, 2e-3, 2, 1, save_every=3, log_every=2)
    straight = texts(tiny, tokenizer, faces, tmp_path / "a", plan)
    kept, calls = words.answer_loss, []

    def stopping(*given):
        calls.append(1)
        if len(calls) == 5:
            raise Stopped
        return kept(*given)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(words, "answer_loss", stopping)
        texts(tiny, tokenizer, faces, tmp_path / "b", plan)
    resumed = texts(tiny, tokenizer, faces, tmp_path / "b", plan)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def align(tiny, tokenizer, faces, folder, plan):
    """The stage on fresh networks; returns both."""
    vision, language = tiny.vision(), tiny.language()
    thresholds = dict.fromkeys(tiny.TRAINED, 0.5)
    words.train_align(
        tiny.CONFIG, vision, language, tokenizer, thresholds, faces, folder, plan, RECIPE
    )
    return {**vision.state_dict(), **language.state_dict()}


def test_resuming_align_is_bit_equal(tiny, tokenizer, faces, tmp_path, monkeypatch, log_lines):
    plan = Plan(6, 2e-3, 2, 1, save_every=3, log_every=2)
    straight = align(tiny, tokenizer, faces, tmp_path / "a", plan)
    draw = words.Crops.draw

    def stopping(self, seed, step, *given):
        if step == 4:
            raise Stopped
        return draw(self, seed, step, *given)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(words.Crops, "draw", stopping)
        align(tiny, tokenizer, faces, tmp_path / "b", plan)
    resumed = align(tiny, tokenizer, faces, tmp_path / "b", plan)
    assert set(straight) == set(resumed)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name
    lines = log_lines(tmp_path / "a")
    assert [(line["stage"], line["step"]) for line in lines] == [("align", k) for k in (2, 4, 6)]


def test_align_moves_only_the_door_and_lora(tiny, tokenizer, faces, tmp_path):
    """What the heads answer must stay as the eyes' stage left it."""
    after = align(tiny, tokenizer, faces, tmp_path, Plan(3, 2e-2, 1, 0))
    before = {**tiny.vision().state_dict(), **tiny.language().state_dict()}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("token_mlp.", "local_token.")) for name in moved)
    lora = {name.rsplit(".", 1)[0] for name in set(after) - set(before)}
    assert lora == {f"blocks.0.{part}" for part in "qkvo"}


@torch.no_grad()
def test_a_prefix_begins_with_the_opening_token(tiny, tokenizer):
    language = tiny.language()
    found = words.begin(language, tokenizer, 3)
    assert found.shape == (3, 1, 256)
    assert torch.equal(found[1, 0], language.embed.weight[tokenizer.token_to_id("<bos>")])
