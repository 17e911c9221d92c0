"""The loop that every stage shares: rates, its log, and going on after a stop."""

import math

import pytest
import torch
from torch import nn

from feallm.model.train.run import Average, Plan, Run


def test_rates_warm_up_and_fall():
    plan = Plan(100, 2.0, 10, 0)
    rates = [plan.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0) and rates[55] == pytest.approx(2.0 * 0.505)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] == pytest.approx(0.02, abs=0.002)
    assert all(math.isfinite(Plan(1, 1.0, 1, 0).rate_at(step)) for step in range(3))


class Stage:
    """A stage in small: random numbers and an average, as the real ones use them."""

    def __init__(self, folder, plan):
        torch.manual_seed(plan.seed)
        self.network = nn.Linear(3, 2)
        self.average = Average(self.network, 0.9)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=plan.rate)
        modules = {"network": self.network, "average": self.average}
        self.run = Run(folder, "small", plan, modules, optimizer)

    def loss(self, step):
        if step:
            self.average.update(self.network, step)
        out = self.network(torch.randn(4, 3))
        return {"square": out.square().mean(), "shift": (out - 1).abs().mean()}

    def go(self, stop=None):
        for step in self.run.steps(self.loss):
            if step == stop:
                break
        return self


@pytest.mark.parametrize("stop", [2, 4])
def test_a_stopped_run_goes_on_as_if_nothing_was(tmp_path, stop, log_lines):
    plan = Plan(6, 0.1, 2, 3, save_every=2, log_every=2)
    straight = Stage(tmp_path / "a", plan).go()
    Stage(tmp_path / "b", plan).go(stop)
    resumed = Stage(tmp_path / "b", plan)
    assert resumed.run.step == stop
    resumed.go()
    for name in ("network", "average"):
        expected = getattr(straight, name).state_dict()
        for key, value in getattr(resumed, name).state_dict().items():
            assert torch.equal(value, expected[key]), (name, key)
    lines = [[{**s, "seconds": 0} for s in log_lines(tmp_path / f)] for f in "ab"]
    assert lines[0] == lines[1]


def test_a_crash_between_saves_goes_on_from_the_last_one(tmp_path):
    plan = Plan(6, 0.1, 2, 3, save_every=2, log_every=2)
    straight = Stage(tmp_path / "a", plan).go()
    crashing = Stage(tmp_path / "b", plan)
    kept = crashing.loss

    def crash(step):
        if step == 5:
            raise KeyboardInterrupt
        return kept(step)

    crashing.loss = crash
    with pytest.raises(KeyboardInterrupt):
        crashing.go()
    resumed = Stage(tmp_path / "b", plan)
    assert resumed.run.step == 4
    resumed.go()
    assert torch.equal(resumed.network.weight, straight.network.weight)


def test_the_log_has_stage_step_losses_rate_and_time(tmp_path, log_lines):
    Stage(tmp_path, Plan(4, 0.1, 2, 0, log_every=2)).go().run.log(held=0.5)
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 4]
    assert set(lines[0]) == {"stage", "step", "seconds", "square", "shift", "rate"}
    assert lines[0]["stage"] == "small" and lines[2]["held"] == 0.5


def test_a_logged_loss_is_the_mean_since_the_last_line(tmp_path, log_lines):
    stage = Stage(tmp_path, Plan(4, 0.0, 2, 0, log_every=2))
    values = [1.0, 3.0, 5.0, 9.0]
    stage.loss = lambda step: {"a": stage.network.weight.sum() * 0 + values[step]}
    stage.go()
    assert [s["a"] for s in log_lines(tmp_path)] == [2.0, 7.0]


def test_a_finished_stage_is_only_loaded(tmp_path):
    plan = Plan(4, 0.1, 2, 0)
    first = Stage(tmp_path, plan).go()
    again = Stage(tmp_path, plan)
    again.loss = lambda step: pytest.fail("trained again")
    again.go()
    assert torch.equal(first.network.weight, again.network.weight)
    assert len(list(tmp_path.glob("small.state-*.safetensors"))) == 1


def test_the_average_is_an_average():
    module = nn.Linear(2, 2)
    average = Average(module, 0.5)
    with torch.no_grad():
        before = module.weight.clone()
        module.weight.add_(1.0)
        average.update(module, 10**6)  # late: by its decay
        torch.testing.assert_close(average.get_buffer("weight"), before + 0.5)
        average.copy_to(module)
    torch.testing.assert_close(module.weight.detach(), before + 0.5)
