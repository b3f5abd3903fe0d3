"""The report: readable in 80 columns, and the same as plain data."""

from __future__ import annotations

import json

import torch
from torch import nn

import convsurgeon


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a_rather_long_name_for_the_first_of_all_the_layers = nn.Conv1d(2, 4, 3)
        self.blocks = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=1) for _ in range(20))
        self.norm = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 1))
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a_rather_long_name_for_the_first_of_all_the_layers(x)
        for block in self.blocks:
            x = torch.renorm(torch.relu(block(x)), 2, 1, 5.0)
        return self.lstm(self.norm(x).transpose(1, 2))[0]


def test_the_report_says_what_was_done_in_80_columns() -> None:
    conversion = convsurgeon.convert(Model(), torch.randn(2, 2, 12), exclude=["blocks.3"])
    text = str(conversion)
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "convsurgeon: Model",
        "captured by torch.fx symbolic trace",
        "20 x Conv1d -> Conv2d",
        "1 x conv1d -> conv2d",
        "19 x relu",
        "and 1 on computed weights",
        "unsqueeze x [2, 2, 12]: an input; a_rather_long_name_for_the_first_of_all_the_layers (Conv1d) takes it in 2-D",
        "squeeze relu [2, 4, 10]: renorm stays 1-D",
        "blocks.3 (Conv1d): excluded by exclude=['blocks.3']",
        "20 x renorm: no rule covers it, and it isn't pointwise",
        "20 of 49 state_dict entries gain an axis",
        "equal on 1 sample, judged by a float64 run",
    ):
        assert part in " ".join(text.split()), part


def test_the_report_as_data_is_json() -> None:
    conversion = convsurgeon.convert(Model(), torch.randn(2, 2, 12))
    data = json.loads(json.dumps(conversion.to_json()))
    assert data["plan"]["capture"]["how"] == "trace"
    assert data["verification"]["passed"] is True
    expected = {"name": "norm.bias", "shape_1d": [4], "shape_2d": [4], "dtype": "float32", "baked": False}
    assert expected in data["weights"]
    assert set(data["seconds"]) == {"capture", "observe", "compare", "plan", "rewrite", "verify"}


def test_a_plan_prints_itself() -> None:
    plan = convsurgeon.plan(nn.Sequential(nn.Conv1d(1, 1, 1)), torch.randn(1, 1, 3))
    assert "1 convolution and 0 other operators" in str(plan)
