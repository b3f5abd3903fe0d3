"""Padding, of the length and of the axes before it."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule


@rule("pad", contiguous=True)
def lift_pad(pad: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``pad`` by (l, r) is ``pad`` by (l, r, 0, 0): the unit axis is padded by nothing, in every mode.

    Pads of further axes follow, and negative pads crop, as before.

    Limits: a list of pads; outside mode "constant", of the length alone.
    """
    if not isinstance(pad.pad, (tuple, list)):
        return Refusal("its pads are computed in the graph, as a whole")
    if pad.mode == "constant":
        return Lifted("pad", pad=axis.all_pads(pad.pad))
    if len(pad.pad) != 2:
        return Refusal(f"mode {pad.mode!r} over more than the length")
    return Lifted("pad", pad=axis.pads(pad.pad))


@rule("pad1d", contiguous=True)
def lift_pad_layer(pad: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A padding layer of the length by (l, r) is that of both spatial axes by (l, r, 0, 0)."""
    return Lifted("pad2d", padding=tuple(axis.pads(pad.padding)))
