"""Training that began in 1-D goes on in 2-D, with the same optimizer: the losses follow those of an unconverted run.

python examples/fine_tuning.py
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

import convsurgeon

BEFORE, AFTER = 20, 60


def classifier() -> nn.Module:
    """Tells a rising from a falling chirp."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 16, 9, stride=2),
        nn.BatchNorm1d(16),
        nn.GELU(),
        nn.Conv1d(16, 32, 9, stride=2, groups=4),
        nn.BatchNorm1d(32),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


def batches(first: int, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        label = torch.randint(0, 2, (32,), generator=generator)
        time = torch.linspace(0, 1, 256)
        slope = (2.0 * label - 1)[:, None] * 20
        phase = 2 * torch.pi * (30 * time + slope * time**2 / 2 + torch.rand(32, 1, generator=generator))
        noise = torch.randn(32, 256, generator=generator)
        yield (torch.sin(phase) + noise).unsqueeze(1), label


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, count: int) -> list[float]:
    losses = []
    for x, label in batches(first, count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    torch.set_num_threads(1)
    model = classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    train(model, optimizer, 0, BEFORE)

    conversion = convsurgeon.convert(model, torch.randn(2, 1, 256), copy_weights=True)
    moved = conversion.weight_map.move_optimizer(optimizer, conversion.module)

    unconverted, converted = (
        train(one, own, BEFORE, AFTER) for one, own in ((model, optimizer), (conversion.module, moved))
    )
    print("step   1-D     2-D")
    for step in range(0, AFTER, 10):
        print(f"{BEFORE + step:4}  {unconverted[step]:.4f}  {converted[step]:.4f}")
    difference = max(abs(a - b) for a, b in zip(unconverted, converted, strict=True))
    print(f"largest difference of the losses over {AFTER} steps: {difference:.1e}")
    back = conversion.weight_map.to_1d(conversion.module.state_dict())
    classifier().load_state_dict(back, strict=True)
    print("the fine-tuned weights load into the original class")
    if difference > 1e-3:
        raise SystemExit("the losses differ by more than 1e-3")


if __name__ == "__main__":
    main()
