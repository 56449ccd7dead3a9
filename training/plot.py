"""Draw the loss curve: WORK/log.jsonl to training/loss.png."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from corpus import DEFAULT_WORK


def entries(log: Path) -> list[dict[str, float]]:
    """The log in order of steps; where a run was resumed, what it did last counts."""
    latest: dict[tuple[int, bool], dict[str, float]] = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        latest[int(entry["step"]), "held_out" in entry] = entry
    return [latest[key] for key in sorted(latest)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "loss.png")
    args = parser.parse_args()

    figure, loss = plt.subplots(figsize=(8, 4.5), dpi=110)
    rate = loss.twinx()
    log = entries(args.work / "log.jsonl")
    for axis, key, label, style in (
        (loss, "loss", "training (mean of 20 steps)", {"color": "#8fb3d9", "linewidth": 1}),
        (loss, "held_out", "held-out (16 fixed windows of 512)", {"color": "#b5432f", "marker": ".", "markersize": 5}),
        (rate, "rate", "learning rate", {"color": "#999999", "linestyle": ":"}),
    ):
        points = [(entry["tokens"] / 1e6, entry[key]) for entry in log if key in entry]
        axis.plot(*zip(*points), label=label, **style)
    loss.set(xlabel="million tokens seen", ylabel="cross-entropy, nats per token", title="rotor-tiny")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    loss.grid(alpha=0.3)
    handles = [*loss.get_lines(), *rate.get_lines()]
    loss.legend(handles, [str(line.get_label()) for line in handles])
    figure.tight_layout()
    figure.savefig(args.out)


if __name__ == "__main__":
    main()
