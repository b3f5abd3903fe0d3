"""The command line: what every command takes. What it does is imported when it is called, and torch only then."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from convsurgeon.commands.console import Code, bytes_bar, reporting, show
from convsurgeon.targets import target_names
from convsurgeon.weights.weight_map import Direction

app = typer.Typer(
    name="convsurgeon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="The 1-D convolutions of a trained PyTorch model, converted to 2-D and proven equal.\n\n"
    "MODEL is package.module:callable or file.py:callable, which returns the model, or the model and its sample inputs "
    "(its Python is run), or the .pt2 file of an exported program.\n\n"
    "Exit codes: 0 done, 1 differs or does not fit, 2 bad input, 3 nothing could be converted, 70 a defect of "
    "convsurgeon.",
)

Model = Annotated[str, typer.Argument(help="package.module:callable, file.py:callable or a .pt2 file", metavar="MODEL")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        help="[NAME=]SHAPE[:DTYPE][=VALUE], such as 1x80x3000 or lengths=1:int64=3000; one for each argument",
    ),
]
Checkpoint = Annotated[str | None, typer.Option(help="weights to load first: safetensors, torch.save, or a folder")]
Lift = Annotated[str, typer.Option(help="regions: neighbours in 2-D too; ops: each convolution alone")]
Io = Annotated[
    str, typer.Option(help="1d: inputs and outputs keep their shapes; 2d: those that touch a region are 4-D")
]
Axis = Annotated[int, typer.Option(help="-2 for (N, C, 1, L), -1 for (N, C, L, 1)")]
Capture = Annotated[str, typer.Option(help="auto, trace, export or islands")]
Square = Annotated[bool, typer.Option("--square", help="strides and dilations equal on both axes")]
Include = Annotated[list[str] | None, typer.Option(help="glob on module names: convert these only; may be repeated")]
Exclude = Annotated[list[str] | None, typer.Option(help="glob on module names: keep these 1-D; may be repeated")]
Budget = Annotated[float | None, typer.Option(help="with --tune: for how many seconds (default: 45)", min=1)]
Trust = Annotated[bool, typer.Option("--trust", help="load pickled objects that aren't weights: this runs their code")]
TARGETS = f"{', '.join(target_names())}, or the .toml file of a profile of your own"
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]


def main() -> None:
    """Run the command line; what nobody foresaw is told with its traceback, and has a code of its own."""
    try:
        app()
    except Exception:  # a defect of ours: no command may seem to have found a difference
        traceback.print_exc()
        sys.exit(Code.DEFECT)


@app.command()
def convert(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder to write: model, weight map and report")],
    inputs: Inputs = None,
    checkpoint: Checkpoint = None,
    to: Annotated[
        str, typer.Option(help="pt2, onnx, pte (ExecuTorch), tflite (LiteRT), or safetensors (the weights alone)")
    ] = "pt2",
    lift: Lift = "regions",
    io: Io = "1d",
    unit_axis: Axis = -2,
    square: Square = False,
    include: Include = None,
    exclude: Exclude = None,
    capture: Capture = "auto",
    fold: Annotated[bool, typer.Option("--fold", help="make plain weights of computed ones")] = False,
    exact: Annotated[
        list[str] | None, typer.Option(help="an exact rewrite, such as fold_stride or split_kernel:7; may be repeated")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help=f"an accelerator to rewrite for, and to fit: {TARGETS}")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="with --target: fail where it doesn't fit")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="make it faster on this machine, by measurement")] = False,
    choice: Annotated[
        Path | None, typer.Option(help="a tuning.json: tune by what it chose on this machine, without measuring")
    ] = None,
    budget: Budget = None,
    threads: Annotated[int | None, typer.Option(help="torch's threads to tune for", min=1)] = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Convert a model, prove it equal, and write it with its weight map and its report."""
    options = _options(lift, io, unit_axis, square, include, exclude, capture)
    with reporting(as_json=as_json):
        from convsurgeon.commands.converting import convert_to_folder

        if threads is not None and not tune and choice is None:
            raise ValueError("--threads says what to tune for, and goes with --tune or --choice")
        seconds = _seconds(budget, tune=tune)
        done = convert_to_folder(
            model,
            output,
            to,
            inputs or (),
            checkpoint,
            {**options, "fold": fold, "exact": tuple(exact or ()), "target": target, "strict": strict},
            {"choice": choice, "budget_s": seconds, "threads": threads} if tune or choice is not None else None,
            overwrite=overwrite,
            trust=trust,
        )
    show(done.text, done.data, as_json=as_json)
    raise typer.Exit(done.code)


@app.command()
def plan(
    model: Model,
    inputs: Inputs = None,
    lift: Lift = "regions",
    io: Io = "1d",
    unit_axis: Axis = -2,
    square: Square = False,
    include: Include = None,
    exclude: Exclude = None,
    capture: Capture = "auto",
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Say what would be converted, what would stay 1-D and why; nothing is written."""
    options = _options(lift, io, unit_axis, square, include, exclude, capture)
    with reporting(as_json=as_json):
        from convsurgeon.commands.converting import plan_of

        done = plan_of(model, inputs or (), options, trust=trust)
    show(done.text, done.data, as_json=as_json)
    raise typer.Exit(done.code)


@app.command()
def verify(
    reference: Model,
    candidate: Annotated[str, typer.Argument(help="the model to judge, likewise", metavar="MODEL")],
    inputs: Inputs = None,
    rtol: Annotated[float | None, typer.Option(help="with --atol: compare directly, without a float64 run")] = None,
    atol: Annotated[float | None, typer.Option(help="with --rtol")] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="compare gradients too")] = False,
    train: Annotated[bool, typer.Option("--train", help="compare in training mode")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Compare what two models compute; exit code 1 if they differ."""
    with reporting(as_json=as_json):
        from convsurgeon.commands.converting import verified

        done = verified(reference, candidate, inputs or (), rtol, atol, gradients=gradients, train=train, trust=trust)
    show(done.text, done.data, as_json=as_json)
    raise typer.Exit(done.code)


@app.command()
def fit(
    model: Model,
    target: Annotated[str, typer.Option("--target", "-t", help=TARGETS)],
    inputs: Inputs = None,
    convert: Annotated[bool, typer.Option("--convert", help="convert first, and fit the result")] = False,
    square: Square = False,
    strict: Annotated[bool, typer.Option("--strict", help="tell an operator that doesn't fit as an error")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Say which operators an accelerator takes, which after a rewrite, and which not; exit code 1 if not all as is."""
    with reporting(as_json=as_json):
        from convsurgeon.commands.fitting import fit_of

        done = fit_of(model, target, inputs or (), convert=convert, square=square, strict=strict, trust=trust)
    show(done.text, done.data, as_json=as_json)
    raise typer.Exit(done.code)


@app.command()
def checkpoint(
    source: Annotated[
        str, typer.Argument(help="safetensors, torch.save, or a folder of a distributed or sharded one; a path or URL")
    ],
    target: Annotated[str, typer.Argument(help="the file or folder to write")],
    weight_map: Annotated[Path, typer.Option("--map", "-m", help="the weight map that convert wrote")],
    to_1d: Annotated[
        bool, typer.Option("--to-1d", help="back from the converted model's shapes to the original's")
    ] = False,
    partial: Annotated[bool, typer.Option("--partial", help="weights of the model may be missing")] = False,
    overwrite: Overwrite = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Move the weights of a checkpoint to the converted model's shapes, or back, exactly."""
    with reporting(as_json=as_json):
        from convsurgeon.checkpoints import convert_checkpoint
        from convsurgeon.commands.processes import process_group

        with process_group() as first, bytes_bar(source) as tell:
            direction: Direction = "1d" if to_1d else "2d"
            options = {"overwrite": overwrite, "trust": trust, "partial": partial}
            moved = convert_checkpoint(source, target, weight_map, direction, **options, progress=tell)
    if first:
        show(str(moved), moved.to_json(), as_json=as_json)


@app.command()
def rules(as_json: Json = False) -> None:
    """List what is computed in 2-D, and how."""
    from convsurgeon.commands.listing import rules_listing, rules_shown

    if as_json:
        show("", rules_listing(), as_json=True)
    else:
        rules_shown()


@app.command()
def targets(as_json: Json = False) -> None:
    """List the accelerators that are known, how many limits each has, and what these rest on."""
    from convsurgeon.commands.listing import targets_listing, targets_shown

    if as_json:
        show("", targets_listing(), as_json=True)
    else:
        targets_shown()


@app.command()
def bench(
    model: Model,
    inputs: Inputs = None,
    lift: Lift = "regions",
    io: Io = "1d",
    unit_axis: Axis = -2,
    square: Square = False,
    include: Include = None,
    exclude: Exclude = None,
    capture: Capture = "auto",
    rounds: Annotated[int, typer.Option(help="how often each is timed, in turn", min=3)] = 20,
    threads: Annotated[int | None, typer.Option(help="torch's threads, and those of other tools", min=1)] = None,
    dtype: Annotated[str | None, typer.Option(help="cast the model first: float32, bfloat16, float16")] = None,
    compiled: Annotated[bool, typer.Option(help="time torch.compile of each as well")] = True,
    runtimes: Annotated[bool, typer.Option(help="time onnxruntime and OpenVINO, if they are installed")] = True,
    tune: Annotated[bool, typer.Option("--tune", help="tune the converted model, and time that too")] = False,
    budget: Budget = None,
    profile: Annotated[bool, typer.Option("--profile", help="tell where the time goes, by operator")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw a chart of how they compare, such as bench.png")] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Time the converted model against the original, in turn: eager, compiled, tuned, and by other tools."""
    options = _options(lift, io, unit_axis, square, include, exclude, capture)
    with reporting(as_json=as_json):
        from convsurgeon.commands.benching import Wanted, bench_of

        seconds = _seconds(budget, tune=tune)
        wanted = Wanted(rounds, threads, dtype, compiled, runtimes, seconds if tune else None, profile, plot)
        done = bench_of(model, inputs or (), options, wanted, trust=trust)
    show(done.text, done.data, as_json=as_json)
    raise typer.Exit(done.code)


def _seconds(budget: float | None, *, tune: bool) -> float:
    """For how many seconds to tune."""
    if budget is None:
        return 45.0
    if not tune:
        raise ValueError("--budget says for how many seconds to tune, and goes with --tune")
    return budget


def _options(
    lift: str, io: str, unit_axis: int, square: bool, include: list[str] | None, exclude: list[str] | None, capture: str
) -> dict[str, Any]:
    """The options of a conversion as `convsurgeon.convert` takes them."""
    return {
        "lift": lift,
        "io": io,
        "unit_axis": unit_axis,
        "square": square,
        "include": tuple(include or ("*",)),
        "exclude": tuple(exclude or ()),
        "capture": capture,
    }


__all__ = ["Code", "app", "main"]
