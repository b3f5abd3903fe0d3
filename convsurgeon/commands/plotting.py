"""Ratios as a chart of bars, by matplotlib, which is a package of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from convsurgeon.toolchains import not_imported


def require_plotting(path: Path) -> None:
    """See that a chart can be written to `path`, before anything is measured for it.

    Raises:
        UnsupportedError: matplotlib can't be imported.
        ValueError: it doesn't write files of this suffix, or there is no such folder.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise not_imported(error, "plot") from error
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"--plot is {str(path)!r}; accepted: a suffix among .{', .'.join(known)}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot is {str(path)!r}, and {path.parent} is no folder; make it first")


def plot_ratios(path: Path, title: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> None:
    """Write a chart of how many times faster each of `names` is, a bar for each of the series; None has no bar.

    Raises:
        OSError: the file can't be written.
    """
    from matplotlib.figure import Figure

    height = 0.8 / len(series)
    figure = Figure(figsize=(8, 1.5 + 0.3 * len(names) * max(1, len(series) * 0.6)), layout="constrained")
    axes = figure.subplots()
    for at, (label, ratios) in enumerate(series.items()):
        places = [place + at * height for place in range(len(names))]
        bars = axes.barh(places, [ratio or 0.0 for ratio in ratios], height, align="edge", label=label)
        axes.bar_label(bars, ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks([place + 0.4 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the original")
    axes.set_title(title, fontsize=9)
    if len(series) > 1:
        axes.legend(fontsize=8)
    figure.savefig(path)
