"""Answers are what the float model says, however many are decoded at once."""

import pytest
import torch
from tokenizers import Tokenizer

from feallm.calibration.answers import answers, sequences
from feallm.model.checkpoint import Checkpoint, load
from feallm.runtime.contract.errors import InputError
from feallm.runtime.language.wording import QUESTIONS


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    return load(tiny.checkpoint(tmp_path_factory.mktemp("answers")))


@torch.no_grad()
def test_they_are_greedy(tiny, checkpoint):
    """Reading each whole answer anew, without memory, puts its every token first."""
    answered = answers(checkpoint, tiny.crops(6), limit=25)
    assert len(answered) == 6
    for one, whole in zip(answered, sequences(checkpoint, answered), strict=True):
        count = len(one.answer)
        assert len(whole) == 1 + len(one.visual) + len(one.question) + count
        logits = checkpoint.language(whole[None])[0, -count - 1 : -1]
        chosen = logits.gather(1, torch.tensor(one.answer)[:, None])[:, 0]
        assert float((logits.amax(1) - chosen).max()) < 1e-4  # but for ties


def test_each_face_keeps_its_place_and_questions_take_turns(tiny, checkpoint):
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    crops = tiny.crops(9)
    answered = answers(checkpoint, crops, limit=3)
    with torch.no_grad():
        visual = checkpoint.vision(torch.from_numpy(crops))[3]
    for k, one in enumerate(answered):
        assert tokenizer.decode(one.question) == QUESTIONS[k % len(QUESTIONS)] + "\n"
        torch.testing.assert_close(torch.from_numpy(one.visual), visual[k], rtol=0, atol=1e-4)


def test_an_answer_ends_with_its_end_token_or_at_the_limit(tiny, checkpoint):
    """A table of embeddings whose end token is always nearest: one token, and no more."""
    end = Tokenizer.from_str(checkpoint.tokenizer).token_to_id("<eos>")
    assert {len(one.answer) for one in answers(checkpoint, tiny.crops(5), limit=7)} == {7}
    norm, table = checkpoint.language.norm.weight, checkpoint.language.embed.weight
    kept = norm.detach().clone(), table.detach().clone()
    with torch.no_grad():
        norm.mul_(0).add_(torch.eye(len(norm))[0])
        table[:, 0] = 0
        first = torch.cat(list(sequences(checkpoint, answers(checkpoint, tiny.crops(1), limit=1))))
        table[end, 0] = 1
        signs = checkpoint.language(first[None]).sign()[0, -2, end]
        table[end, 0] = float(signs)
    try:
        (one,) = answers(checkpoint, tiny.crops(1), limit=7)
        assert one.answer == (end,)
    finally:
        with torch.no_grad():
            norm.copy_(kept[0])
            table.copy_(kept[1])


def test_no_faces_no_answers(tiny, checkpoint):
    assert answers(checkpoint, tiny.crops(1)[:0]) == []


def test_a_checkpoint_without_words_is_told(tiny, checkpoint):
    without = Checkpoint(checkpoint.config, checkpoint.vision)
    with pytest.raises(InputError, match="no language model"):
        answers(without, tiny.crops(1))
