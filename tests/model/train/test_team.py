"""Several processes as one: whose batch is whose, and the mean of their gradients."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from feallm.model.train.run import Plan, Run
from feallm.model.train.team import Team

CHILD = """
import json, sys
import torch
from torch import distributed
from feallm.model.train.team import Team

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
team = Team.join()
flat, deep, bare = (torch.zeros(shape, requires_grad=True) for shape in ((2,), (2, 3, 2, 2), (4,)))
flat.grad = torch.tensor([[1.0, 2], [5, -2]])[rank]
deep.grad = (torch.arange(24.0).reshape(2, 3, 2, 2) * (1 + 2 * rank)).contiguous(
    memory_format=torch.channels_last  # as training lays them
)
team.average_gradients(iter([flat, bare, deep]))
print(json.dumps({
    "rank": team.rank, "size": team.size, "first": team.first, "bare": bare.grad is None,
    "flat": flat.grad.tolist(), "deep": deep.grad.reshape(-1).tolist(),
}))
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("start, stop", [(0, 5), (3, 9), (4, 4)])
def test_each_batch_is_drawn_by_one_process(size, start, stop):
    own = [list(Team(rank, size).steps(start, stop)) for rank in range(size)]
    assert all(len(numbers) == stop - start for numbers in own)  # one a step
    together = [number for numbers in own for number in numbers]
    assert len(set(together)) == len(together)
    assert set(together) == set(range(start * size, stop * size))


def test_a_stopped_training_goes_on_with_the_batches_that_were_left():
    for rank in (0, 1):
        team = Team(rank, 2)
        parts = [list(team.steps(*part)) for part in pairwise((0, 3, 4, 9))]
        assert sum(parts, []) == list(team.steps(0, 9))


def test_alone_the_batches_are_the_steps():
    assert Team().steps(7, 12) == range(7, 12)
    assert Team().first and not Team(1, 2).first


def test_alone_gradients_stay_what_they_are():
    value = torch.zeros(3, requires_grad=True)
    value.grad = given = torch.tensor([1.0, -2, 4])
    Team().average_gradients([value])
    assert value.grad is given and given.tolist() == [1, -2, 4]


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")  # other launchers set these too: they call no team together
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Team.join() == Team(0, 1)
    assert not torch.distributed.is_initialized()


def test_two_processes_end_with_the_mean(tmp_path):
    """[1, 2] and [5, -2] make [3, 0]; 0, 1, 2 … once and three times make 0, 2, 4 …"""
    given = {**os.environ, "TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(rank), str(tmp_path / "store")],
            env={**given, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        ends = [child.communicate(timeout=100) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], ends
    found = [json.loads(out) for out, _ in ends]
    assert [(one["rank"], one["size"], one["first"]) for one in found] == [
        (0, 2, True),
        (1, 2, False),
    ]
    for one in found:
        assert one["flat"] == [3, 0] and one["bare"]
        assert one["deep"] == [2 * k for k in range(24)]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_writes(tmp_path, monkeypatch, rank):
    averaged = []
    monkeypatch.setattr(
        Team, "average_gradients", lambda self, parameters: averaged.append(len(list(parameters)))
    )
    module = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    plan = Plan(4, 1e-2, 1, 0, save_every=2, log_every=2)
    run = Run(tmp_path / "run", "vision", plan, {"network": module}, optimizer, Team(rank, 2))
    pauses = sum(1 for _ in run.steps(lambda step: {"loss": module(torch.ones(1, 2)).sum()}))
    assert run.step == 4 and averaged == [2] * 4
    assert (pauses > 0) == (rank == 0)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert ("vision.state.json" in names, "log.jsonl" in names) == (rank == 0,) * 2
