"""Optimizer state finds its parameter by name, by order or by shape, and is refused where these don't tell."""

from __future__ import annotations

from typing import Any

import pytest

from convsurgeon import CheckpointError, WeightMap
from convsurgeon.checkpoints.distributed.slots import FlatState, moved_slots
from convsurgeon.weights.placement import moved_shapes
from convsurgeon.weights.weight_map import Entry

BEFORE, AFTER = (4, 3, 5), (4, 3, 1, 5)


def weight_map(*parameters: str, **shapes: tuple[int, ...]) -> WeightMap:
    """A map of "a.weight", which moves, of others that don't, and of the parameters' order."""
    entries = [Entry("a.weight", BEFORE, AFTER, "float32")]
    entries += [Entry(name.replace("_", "."), shape, shape, "float32") for name, shape in shapes.items()]
    return WeightMap("Net", -2, tuple(entries), parameters)


def slots(held: WeightMap, state: Any) -> dict[str, tuple[int, ...]]:
    """The keys that move of a nested state, of shapes, as it is flattened."""
    paths: dict[str, tuple[str | int, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def flatten(value: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(value, (dict, list)):
            for step, one in value.items() if isinstance(value, dict) else enumerate(value):
                flatten(one, (*path, step))
            return
        key = ".".join(map(str, path))
        paths[key] = path
        if isinstance(value, tuple):
            shapes[key] = value

    flatten(state, ())
    return moved_slots(FlatState(held, "2d", paths, shapes, moved_shapes(held, shapes, "2d")))


def adam(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"step": (), "exp_avg": shape, "exp_avg_sq": shape}


MOVED = {"optim.state.a.weight.exp_avg": AFTER, "optim.state.a.weight.exp_avg_sq": AFTER}


@pytest.mark.parametrize(
    "state",
    [
        {"model": {"a.weight": BEFORE}, "optim": {"state": {"a.weight": adam(BEFORE)}}},
        {"model": {"a.weight": BEFORE}, "optim": {f"state.a.weight.{k}": v for k, v in adam(BEFORE).items()}},
        {"model": {"a.weight": BEFORE}, **{f"optim.state.a.weight.{k}": v for k, v in adam(BEFORE).items()}},
        {"optim": {"state": {"a.weight": adam(BEFORE)}}},
    ],
)
def test_names_however_they_are_flattened(state: Any) -> None:
    assert slots(weight_map("a.weight"), state) == MOVED


def test_a_larger_model_around_ours() -> None:
    """What its optimizer calls a.weight is not ours, which it calls net.a.weight."""
    model = {"net.a.weight": BEFORE, "a.weight": BEFORE}
    held = weight_map("a.weight", "b", b=(2,))
    found = slots(held, {"model": {**model, "net.b": (2,)}, "optim": {"state": {n: adam(BEFORE) for n in model}}})
    assert found == {"optim.state.net.a.weight.exp_avg": AFTER, "optim.state.net.a.weight.exp_avg_sq": AFTER}


def test_state_beside_what_is_called_state() -> None:
    """Neither a dict nor a module of this name is taken for an optimizer's state."""
    held = weight_map("a.weight", state_in_weight=(7, 2))
    model = {"a.weight": BEFORE, "state.in.weight": (7, 2)}
    found = slots(held, {"state": {"model": model, "optim": {"state": {n: adam(s) for n, s in model.items()}}}})
    assert found == {f"state.{key}": shape for key, shape in MOVED.items()}


def test_two_models_with_an_optimizer_each() -> None:
    theirs = {"a.weight": BEFORE, "c.weight": BEFORE}
    state = {
        "gen": {"a.weight": BEFORE, "b": (2,)},
        "disc": theirs,
        "optim_gen": {"state": {"a.weight": adam(BEFORE), "b": adam((2,))}},
        "optim_disc": {"state": {name: adam(BEFORE) for name in theirs}},
    }
    assert set(slots(weight_map("a.weight", "b", b=(2,)), state)) == {
        "optim_gen.state.a.weight.exp_avg",
        "optim_gen.state.a.weight.exp_avg_sq",
    }
    del state["optim_gen"]["state"]["b"]
    with pytest.raises(CheckpointError, match=r"may be of any of several parameters 'a\.weight'"):
        slots(weight_map("a.weight", "b", b=(2,)), state)


def test_state_of_another_shape_than_its_parameter() -> None:
    state = {"model": {"a.weight": BEFORE}, "optim": {"state": {"a.weight": adam((4, 15))}}}
    with pytest.raises(CheckpointError, match=r"has shape \[4, 15\]; its parameter 'a\.weight' has \[4, 3, 5\]"):
        slots(weight_map("a.weight"), state)


def test_other_slots_move_where_they_have_the_shape() -> None:
    state = {"optim": {"state": {"a.weight": {"mean": BEFORE, "each": (4,), "deep": {"sign": BEFORE}}}}}
    assert slots(weight_map("a.weight"), state) == {
        "optim.state.a.weight.mean": AFTER,
        "optim.state.a.weight.deep.sign": AFTER,
    }


def indexed(groups: int, **states: Any) -> Any:
    return {"optim": {"state": {k[1:]: s for k, s in states.items()}, "param_groups": [{"lr": 0.1}] * groups}}


def test_indices_are_taken_in_order_in_one_group() -> None:
    """Of slots without a known name the shape alone would not tell which parameter has that of the kernel."""
    held = weight_map("b", "a.weight", b=(4, 3, 1, 5))
    found = slots(held, indexed(1, _0=adam((4, 3, 1, 5)), _1={**adam(BEFORE), "mean": BEFORE}))
    assert set(found) == {"optim.state.1.exp_avg", "optim.state.1.exp_avg_sq", "optim.state.1.mean"}


def test_that_indices_are_in_the_models_order_is_not_taken_for_granted() -> None:
    """Both have one shape, and one of them moves: the optimizer may have been built over them in another order."""
    held = weight_map("b", "a.weight", b=BEFORE)
    with pytest.raises(CheckpointError, match=r"may be 'a\.weight', which moves, or 'b', which doesn't.*param_names"):
        slots(held, indexed(1, _0=adam(BEFORE), _1=adam(BEFORE)))


def test_parameters_without_entries() -> None:
    """A frozen teacher, which is left out of state_dict: the optimizer's indices are not those of the entries."""
    held = weight_map("teacher", "a.weight", "b", b=(2,))
    assert set(slots(held, indexed(1, _0=adam(BEFORE), _1=adam((2,))))) == {
        "optim.state.0.exp_avg",
        "optim.state.0.exp_avg_sq",
    }


def test_indices_are_taken_by_shape_elsewhere() -> None:
    held = weight_map("b", "a.weight", b=(2,))
    for state in (indexed(2, _0=adam(BEFORE), _1=adam((2,))), indexed(1, _0=adam(BEFORE))):
        assert set(slots(held, state)) == {"optim.state.0.exp_avg", "optim.state.0.exp_avg_sq"}


def test_indices_that_can_not_be_told_apart() -> None:
    held = weight_map("b", "a.weight", b=BEFORE)
    with pytest.raises(CheckpointError, match=r"may be 'a\.weight', which moves, or 'b', which doesn't; save"):
        slots(held, indexed(2, _0=adam(BEFORE), _1=adam(BEFORE)))
    with pytest.raises(CheckpointError, match=r"state of shape \[7, 7\], which no parameter of Net has"):
        slots(held, indexed(1, _0=adam((7, 7))))


def test_an_optimizer_without_state_that_has_a_shape() -> None:
    assert slots(weight_map("a.weight"), indexed(1, _0={"step": ()})) == {}


def test_state_that_is_factored_is_refused() -> None:
    held = weight_map("a.weight", b=(2, 2))
    model = {"a.weight": BEFORE, "b": (2, 2)}
    of_b = {"b": {"row_var": (2, 1), "col_var": (1, 2)}}
    assert slots(held, {"model": model, "optim": {"state": of_b}}) == {}
    of_a = {"a.weight": {"row_var": (4, 3, 1), "col_var": (4, 1, 5)}}
    with pytest.raises(CheckpointError, match=r"row_var for 'a\.weight' has shape \[4, 3, 1\].*is factored"):
        slots(held, {"model": model, "optim": {"state": of_a}})


def test_slots_of_any_name_by_their_shapes() -> None:
    state = {name: {"prev": shape, "step": ()} for name, shape in (("0", BEFORE), ("1", (2,)))}
    found = slots(weight_map(b=(2,)), {"optim": {"state": state}})
    assert found == {"optim.state.0.prev": AFTER}


def test_two_models_with_an_optimizer_each_that_knows_indices() -> None:
    held = weight_map("a.weight", "b", b=(2,))
    ours, theirs = {"a.weight": BEFORE, "b": (2,)}, {"c.weight": BEFORE, "d.weight": (9, 3)}
    trained = {"optim_gen": indexed(1, _0=adam(BEFORE), _1=adam((2,)))["optim"]}
    other = {"optim_disc": indexed(1, _0=adam(BEFORE), _1=adam((9, 3)))["optim"]}
    found = slots(held, {"gen": ours, "disc": theirs, **trained, **other})
    assert set(found) == {"optim_gen.state.0.exp_avg", "optim_gen.state.0.exp_avg_sq"}
    with pytest.raises(CheckpointError, match=r"state 'optim_disc' may be of Net or of another model"):
        slots(held, {"gen": ours, "disc": theirs, **other})
