"""Train the words: first the language model on texts, then what it sees, with LoRA.

The first stage (`text`) has no faces: it learns to word readings. The second (`align`) freezes the
language model and the eyes, and trains LoRA, the MLP behind X3 and the projection to F_local, so
that the words follow from the visual tokens. What a text of the second stage says is what the
frozen heads read on the very same crop: the words may say only what was measured, so that is what
they learn from. AUs near their threshold are not named (`MARGIN`), since naming one that was not
measured is a fault and passing over a doubtful one is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from feallm.model.config import Config
from feallm.model.data import ferplus, instructions
from feallm.model.data.augment import Augment
from feallm.model.data.pack import Faces
from feallm.model.language import LanguageModel
from feallm.model.tokenizer import BOS, PAD, special_id
from feallm.model.tokenizer import train as train_tokenizer
from feallm.model.train.batches import Crops, Mix
from feallm.model.train.run import Average, Plan, Run
from feallm.model.train.vision import split
from feallm.model.vision import Seen, VisionNetwork
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, INTENSITY_MAX
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.language.wording import Named, degree, one_sided

MARGIN = 0.08
"""How far above its threshold a probability must lie for the training text to name the AU."""

IGNORE = -100
Encoded = tuple[list[int], list[int]]  # tokens of a question, and of its answer


@dataclass(frozen=True, slots=True)
class WordsRecipe:
    """How the words are trained."""

    batch: int = 32
    mix: Mix = Mix(rare=0.35, mean_share=0.5)


def au_chances(faces: Faces) -> NDArray[np.float64]:
    """How often each AU is present with each expression (8, 20), from labelled faces; smoothed,
    so that the texts hold unusual combinations too."""
    winner = ferplus.classes(faces.votes)
    sides = faces.au_sides.max(2)
    result = np.zeros((len(EXPRESSIONS), len(AU_KEYS)))
    for k in range(len(EXPRESSIONS)):
        rows = sides[winner == k]
        known = np.isfinite(rows)
        result[k] = ((rows >= 1) & known).sum(0) / np.maximum(known.sum(0), 1)
    return 0.8 * result + 0.05


def make_tokenizer(config: Config, faces: Faces, trained: tuple[str, ...], seed: int) -> Tokenizer:
    """The tokenizer of this size, trained on 6,000 texts."""
    rng, chances = np.random.default_rng((seed, 77)), au_chances(faces)
    turns = [
        instructions.turn(*instructions.imagined(trained, chances, rng), rng) for _ in range(6000)
    ]
    texts = (text for turn in turns for text in (turn.question + "\n", turn.answer))
    return train_tokenizer(texts, config.language.vocabulary)


def pad(rows: list[Encoded], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Tokens (N, T) of questions and answers, and targets (N, T) that hold answers only."""
    filler = special_id(tokenizer, PAD)
    length = max(len(question) + len(answer) for question, answer in rows)
    tokens = torch.full((len(rows), length), filler)
    targets = torch.full((len(rows), length), IGNORE)
    for k, (question, answer) in enumerate(rows):
        both = len(question) + len(answer)
        tokens[k, :both] = torch.tensor(question + answer)
        targets[k, len(question) : both] = torch.tensor(answer)
    return tokens, targets


def answer_loss(
    language: LanguageModel, prefix: Tensor, rows: list[Encoded], tokenizer: Tokenizer
) -> Tensor:
    """Next-token cross-entropy of the answers after prefix embeddings (N, P, width).

    Short and long rows are run apart: padding them to one length costs a third of the time.
    """
    order = sorted(range(len(rows)), key=lambda k: len(rows[k][0]) + len(rows[k][1]))
    middle = len(order) // 2
    total, count = prefix.new_zeros(()), 0
    for part in (order[:middle], order[middle:]):
        tokens, targets = pad([rows[k] for k in part], tokenizer)
        embeddings = torch.cat([prefix[part], language.embed(tokens)], 1)
        logits = language(embeddings[:, :-1])[:, prefix.shape[1] - 1 :]
        total = total + nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        count += int((targets != IGNORE).sum())
    return total / count


def begin(language: LanguageModel, tokenizer: Tokenizer, count: int) -> Tensor:
    """Embeddings (count, 1, width) of the token that opens every sequence."""
    opening: Tensor = language.embed(torch.full((count, 1), special_id(tokenizer, BOS)))
    return opening


def train_text(
    config: Config,
    tokenizer: Tokenizer,
    chances: NDArray[np.float64],
    trained: tuple[str, ...],
    folder: Path,
    plan: Plan,
    recipe: WordsRecipe,
) -> LanguageModel:
    """Stage `text`: the language model alone."""
    torch.manual_seed(plan.seed)
    language = LanguageModel(config.language)
    optimizer = torch.optim.AdamW(language.parameters(), lr=plan.rate, weight_decay=0.01)
    run = Run(folder, "text", plan, {"language": language}, optimizer)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((plan.seed, 1, step))
        rows = []
        for _ in range(recipe.batch):
            turn = instructions.turn(*instructions.imagined(trained, chances, rng), rng)
            rows.append(instructions.encode(tokenizer, turn.question, turn.answer))
        # Random embeddings stand where the visual tokens will: positions are learned in place.
        blank = torch.randn(recipe.batch, config.vision.tokens + 1, config.language.width)
        prefix = torch.cat([begin(language, tokenizer, recipe.batch), blank * 0.06], 1)
        return {"text": answer_loss(language, prefix, rows, tokenizer)}

    for _ in run.steps(losses):
        pass
    return language


def read_heads(
    seen: Seen, thresholds: dict[str, float], margin: float = MARGIN
) -> list[tuple[tuple[Named, ...], str]]:
    """What a text may say of each crop, from the heads' outputs."""
    probability = seen.au_logits.sigmoid().tolist()
    sides = seen.intensity.clamp(0, INTENSITY_MAX).tolist()
    top = seen.expression_logits.argmax(1).tolist()
    result = []
    for row, strength, k in zip(probability, sides, top, strict=True):
        above = {key: row[AU_INDEX[key]] - least for key, least in thresholds.items()}
        keys = [key for key in AU_KEYS if key in above and above[key] >= margin]
        if not keys and above and max(above.values()) >= 0:
            # "AUs: none" over a measured one would be false: the surest is named all the same.
            keys = [max(above, key=above.__getitem__)]
        aus = [
            Named(
                key,
                degree(max(strength[AU_INDEX[key]])),
                AU_BY_KEY[key].sided and one_sided(*strength[AU_INDEX[key]]),
            )
            for key in keys
        ]
        result.append((tuple(aus), EXPRESSIONS[k]))
    return result


def train_align(
    config: Config,
    vision: VisionNetwork,
    language: LanguageModel,
    tokenizer: Tokenizer,
    thresholds: dict[str, float],
    faces: Faces,
    folder: Path,
    plan: Plan,
    recipe: WordsRecipe,
) -> None:
    """Stage `align`: LoRA, token MLP and F_local; both networks are changed in place."""
    torch.manual_seed(plan.seed + 1)
    vision.eval().requires_grad_(False)
    lora = nn.ParameterList(language.add_lora(config.lora_rank, config.lora_alpha))
    door = nn.ModuleDict({"mlp": vision.token_mlp, "local": vision.local_token})
    door.requires_grad_(True)
    both = nn.ModuleDict({"door": door, "lora": nn.ModuleList([_Holder(lora)])})
    average = Average(both, 0.995)
    groups: list[dict[str, Any]] = [
        {"params": list(door.parameters())},
        {"params": list(lora), "factor": 0.5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan.rate, weight_decay=0.01)
    run = Run(folder, "align", plan, {"both": both, "average": average}, optimizer)
    rows, _ = split(faces)
    crops, how = Crops(faces, rows, recipe.mix), Augment()

    def losses(step: int) -> dict[str, Tensor]:
        if step:
            average.update(both, step)
        batch = crops.draw(plan.seed + 9, step, recipe.batch, how)
        with torch.no_grad():
            seen = vision.answer(batch.crops)
        rng = np.random.default_rng((plan.seed, 2, step))
        texts = []
        for aus, expression in read_heads(seen, thresholds):
            turn = instructions.turn(aus, expression, rng)
            texts.append(instructions.encode(tokenizer, turn.question, turn.answer))
        prefix = torch.cat([begin(language, tokenizer, recipe.batch), vision.tokens(seen)], 1)
        return {"align": answer_loss(language, prefix, texts, tokenizer)}

    for _ in run.steps(losses):
        pass
    average.copy_to(both)


class _Holder(nn.Module):
    """Gives a list of parameters names in a state dict."""

    def __init__(self, parameters: nn.ParameterList) -> None:
        super().__init__()
        self.parameters_ = parameters
