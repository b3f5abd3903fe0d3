"""Three plain convolutions, each computed with 2-D operators: the shapes on the way, and the proof that they agree.

python examples/equivalence.py
"""

from __future__ import annotations

import torch
from torch import nn

import convsurgeon

CASES = {
    "plain": nn.Conv1d(3, 4, kernel_size=3),
    "stride 2, padding 1": nn.Conv1d(3, 4, kernel_size=3, stride=2, padding=1),
    "dilation 2": nn.Conv1d(3, 4, kernel_size=3, dilation=2),
}


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 10)
    print(f"input {tuple(x.shape)}, kernel 3\n")
    print(f"{'':<20}  {'Conv1d':<10}  {'Conv2d':<13}  {'squeezed':<10}  max |difference|")
    for name, conv in CASES.items():
        model = nn.Sequential(conv).eval()
        conversion = convsurgeon.convert(model, x)
        conv2d = conversion.module.get_submodule("0")
        with torch.no_grad():
            expected = model(x)
            in_2d = conv2d(x.unsqueeze(-2))
            squeezed = conversion.module(x)
        torch.testing.assert_close(squeezed, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(in_2d.squeeze(-2), expected, rtol=1e-5, atol=1e-5)
        shapes = [str(tuple(one.shape)) for one in (expected, in_2d, squeezed)]
        print("{:<20}  {:<10}  {:<13}  {:<10}  ".format(name, *shapes), end="")
        print(f"{(squeezed - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
