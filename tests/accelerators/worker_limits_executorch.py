"""Prints what ExecuTorch's XNNPACK backend takes of operators on each side of its limits, each alone in float32."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import torch
from accelerators.limit_cases import Case, cases_of
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower

from convsurgeon.targets import load_target


def row(case: Case, graphs: list[Any]) -> dict[str, Any]:
    """The operators that are left outside, and XNNPACK's own inside, which come by way of `graphs`."""
    graphs.clear()
    module, x = case.built()
    edge = to_edge_transform_and_lower(
        torch.export.export(module.eval(), (x,)), partitioner=[XnnpackPartitioner()]
    ).exported_program()
    names = [str(getattr(node.target, "__name__", "")) for node in edge.graph.nodes if node.op == "call_function"]
    return {
        "outside": [name for name in names if "delegate" not in name and "getitem" not in name],
        "inside": [type(node.xnode_union).__name__ for graph in graphs for node in graph.xnodes],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target, graphs = load_target("xnnpack"), []
    serialize = xnnpack_preprocess.serialize_xnnpack_binary

    def watched(graph: Any, *args: Any, **kwargs: Any) -> Any:
        graphs.append(graph)
        return serialize(graph, *args, **kwargs)

    xnnpack_preprocess.serialize_xnnpack_binary = watched
    every = {str(case): case for limit in target.limits for case in cases_of(target, limit)}
    print(json.dumps({"xnnpack": {key: row(case, graphs) for key, case in every.items()}}))


if __name__ == "__main__":
    main()
