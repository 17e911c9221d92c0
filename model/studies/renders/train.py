"""Train the small network on a mix and read it on the faces coded by eye.

    python -m feallm.model.studies.renders.train --data ../shared/data --out runs/mix \\
        --pack packs/renders:0.7 --pack packs/moved:0.3 --steps 9000

While it trains only `coded-train` is read, once in a while; `coded-test` is read by
`feallm.model.studies.renders.score`, once, when everything is chosen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from feallm.model.data.augment import Augment
from feallm.model.studies.renders.crops import Drawer, Store, Style, coded_crops, read
from feallm.model.studies.renders.network import SmallNetwork
from feallm.model.studies.renders.score import coded_truth, figures, see
from feallm.model.train.run import Average, Plan, Run

BATCH = 64
SOFT = 2.2  # slope of presence about A: a face labelled a trace is half a positive


def losses(network: SmallNetwork, crops: Tensor, sides: Tensor) -> dict[str, Tensor]:
    """Presence by cross-entropy with soft labels, intensity by its absolute error; unknown labels
    count for nothing."""
    logits, intensity = network(crops)
    known = torch.isfinite(sides)
    true = torch.where(known, sides, torch.zeros_like(sides))
    wanted = torch.sigmoid(SOFT * (true - 1.0))
    wanted = torch.where(true <= 0.02, torch.zeros_like(wanted), wanted)
    presence = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    error = (intensity - true.clamp(0, 5)).abs()
    count = known.sum().clamp(min=1)
    return {
        "presence": (presence * known).sum() / count,
        "intensity": 0.15 * (error * known).sum() / count,
    }


def train(
    stores: list[Store],
    out: Path,
    plan: Plan,
    data: Path,
    style: Style | None,
    framed: float,
) -> SmallNetwork:
    """Train to the end of the plan; resumes. Returns the averaged network."""
    torch.manual_seed(plan.seed)
    # torch runs this form of `to`, but its stub does not know it.
    network = SmallNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(network, 0.998)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, plan.rate)
    modules: dict[str, nn.Module] = {"network": network, "average": average}
    run = Run(out, "small", plan, modules, optimizer)
    drawer = Drawer(stores, Augment(scale=0.06, noise=0.2, erase=0.35), style, framed)
    crops, truth = coded_crops(data, "train"), coded_truth("train")
    averaged = SmallNetwork()

    def step(number: int) -> dict[str, Tensor]:
        network.train()
        found = losses(network, *drawer.draw(plan.seed, number, BATCH))
        average.update(network, number)
        return found

    for _ in run.steps(step):
        average.copy_to(averaged)
        seen = figures(see(averaged, crops), truth)
        run.log(
            mean_auc=round(seen["mean_auc"], 4),
            **{key: round(line["auc"], 3) for key, line in seen["aus"].items()},
        )
    average.copy_to(averaged)
    return averaged.eval()


def main() -> None:
    """Train, then print what `coded-train` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pack", action="append", required=True, help="FOLDER:SHARE[:LIMIT]")
    parser.add_argument("--style", help="FOLDER:CHANCE of a pack whose look renders take on")
    parser.add_argument("--framed", type=float, default=0.0, help="share cut close about the face")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stores = []
    for text in arguments.pack:
        folder, share, *limit = text.split(":")
        stores.append(read(Path(folder), float(share), int(limit[0]) if limit else None))
    style = None
    if arguments.style:
        folder, chance = arguments.style.split(":")
        style = Style(read(Path(folder), 0.0, labelled=False), float(chance))
    save_every = max(100, arguments.steps // 5)
    plan = Plan(arguments.steps, arguments.rate, 200, arguments.seed, save_every=save_every)
    network = train(stores, arguments.out, plan, arguments.data, style, arguments.framed)
    state = {key: value.half() for key, value in network.state_dict().items()}
    save_file(state, arguments.out / "small.safetensors")
    seen = figures(see(network, coded_crops(arguments.data, "train")), coded_truth("train"))
    print(json.dumps(seen))
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters} parameters, {sum(len(s.images) for s in stores)} faces")


if __name__ == "__main__":
    main()
