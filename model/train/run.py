"""What every training shares: schedule, resuming, one log that a person can plot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from feallm.model.checkpoint import (
    optimizer_tensors,
    restore,
    restore_optimizer,
    save_tensors,
    tensors_of,
    write_atomically,
)
from feallm.model.train.team import Team
from feallm.runtime.contract.errors import BackendError, InputError

ALONE = Team()


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast. Rates follow a warm-up and a half cosine."""

    steps: int
    rate: float
    warmup: int
    seed: int
    save_every: int = 500
    log_every: int = 50

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.5 * (1 + float(np.cos(np.pi * share))) * 0.99 + 0.01)


class Run:
    """A training that can be stopped at any time and goes on where it was last saved.

    The folder holds `log.jsonl` (one line every `log_every` steps: stage, step, losses, rate,
    seconds), `STAGE.state.safetensors` and `STAGE.state.json`.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        plan: Plan,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        team: Team = ALONE,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.team = team
        self.folder, self.stage, self.plan = folder, stage, plan
        self.modules, self.optimizer = modules, optimizer
        self.step, self.seconds = 0, 0.0
        if self._facts.is_file():
            facts = json.loads(self._facts.read_text())
            tensors = load_file(self._tensors(facts["step"]))
            restore(modules, tensors)
            restore_optimizer(optimizer, tensors)
            self.step, self.seconds = facts["step"], facts["seconds"]
            if team.first:
                self._cut_log()

    @property
    def _quiet(self) -> bool | None:
        """Whether no bar is drawn; None leaves it to the terminal."""
        return None if self.team.first else True

    @property
    def _facts(self) -> Path:
        return self.folder / f"{self.stage}.state.json"

    def _tensors(self, step: int) -> Path:
        return self.folder / f"{self.stage}.state-{step}.safetensors"

    def _save(self) -> None:
        tensors = tensors_of(self.modules) | optimizer_tensors(self.optimizer)
        save_tensors(self._tensors(self.step), tensors)
        facts = {"step": self.step, "seconds": round(self.seconds, 1)}
        write_atomically(self._facts, json.dumps(facts).encode())
        for old in self.folder.glob(f"{self.stage}.state-*.safetensors"):
            if old != self._tensors(self.step):
                old.unlink()

    def _cut_log(self) -> None:
        """Drop this stage's lines after the saved step: they will be written again."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        facts = [json.loads(line) for line in lines]
        kept = [
            line
            for line, fact in zip(lines, facts, strict=True)
            if fact["stage"] != self.stage or fact["step"] <= self.step
        ]
        if len(kept) < len(lines):
            write_atomically(path, "".join(kept).encode())

    def log(self, **values: float | str) -> None:
        """One line of the log."""
        line = {"stage": self.stage, "step": self.step, "seconds": round(self.seconds, 1), **values}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def steps(self, loss: Callable[[int], dict[str, torch.Tensor]]) -> Iterator[int]:
        """Train to the end; yields after every saved step. `loss(step)` gives named losses, and
        their sum is minimized. Randomness hangs on seed and step alone, so resuming changes
        nothing."""
        sums: dict[str, float] = {}
        with tqdm(
            total=self.plan.steps,
            initial=self.step,
            desc=self.stage,
            disable=self._quiet,
            unit="step",
        ) as bar:
            while self.step < self.plan.steps:
                start = time.perf_counter()
                rate = self.plan.rate_at(self.step)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * group.get("factor", 1.0)
                torch.manual_seed(self.plan.seed * 1_000_003 + self.step)
                losses = loss(self.step)
                total = torch.stack(list(losses.values())).sum()
                if not torch.isfinite(total):
                    raise BackendError(
                        f"{self.stage}: the loss is not finite at step {self.step}",
                        hint="the last saved state is from before it",
                    )
                self.optimizer.zero_grad(set_to_none=True)
                total.backward()
                parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
                self.team.average_gradients(parameters)
                nn.utils.clip_grad_norm_(parameters, 2.0)
                self.optimizer.step()
                self.step += 1
                self.seconds += time.perf_counter() - start
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value.item() / self.plan.log_every
                bar.update()
                if not self.team.first:
                    continue
                if self.step % self.plan.log_every == 0:
                    self.log(**{k: round(v, 4) for k, v in sums.items()}, rate=round(rate, 7))
                    bar.set_postfix({k: f"{v:.3f}" for k, v in sums.items()})
                    sums = {}
                if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                    self._save()
                    yield self.step


def saved(folder: Path, stage: str) -> Path:
    """The file of a stage's last saved state; `InputError` where there is none."""
    facts = folder / f"{stage}.state.json"
    try:
        step = json.loads(facts.read_text())["step"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: holds no saved state of {stage}") from error
    return folder / f"{stage}.state-{step}.safetensors"


class Average(nn.Module):
    """Exponential average of a module's weights; the average is what is scored and shipped."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for name, value in module.state_dict().items():
            self.register_buffer(name.replace(".", "__"), value.detach().clone())

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take a little of the module's present weights (more of them early on)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            mine = self.get_buffer(name.replace(".", "__"))
            if value.is_floating_point():
                mine.lerp_(value, share)
            else:
                mine.copy_(value)

    def copy_to(self, module: nn.Module) -> None:
        """Put the average into a module of the same shape."""
        state = {name: self.get_buffer(name.replace(".", "__")) for name in module.state_dict()}
        module.load_state_dict(state)
