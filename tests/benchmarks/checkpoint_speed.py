"""What converting a large safetensors file costs, next to copying it.

python tests/benchmarks/checkpoint_speed.py [--gib 4] [--rounds 8] [--cold] [--folder FOLDER]

Both are measured as whole processes, from their start until the data are on the disk, and take turns in going first:
``cp SOURCE TARGET && sync TARGET``, and ``python -m convsurgeon checkpoint SOURCE TARGET --map MAP``, which
synchronises by itself. Before each the target is removed and the disk has settled (``sync``); the source is in the page
cache, or with --cold (as root) nothing is. cp is left to find the fastest way itself (copy_file_range, or sharing
blocks). A round before the first is not counted.

Memory is by how much the peak of a process that has converted a tiny file, so that everything is imported and warm,
rises when it converts the large one.

What is asked: at most 1.15 times the median of cp, and less than 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convsurgeon import WeightMap
from convsurgeon.weights.weight_map import Entry

SHAPE, BYTES = (256, 256, 4), 1 << 20
"""Of each weight, in F32."""

PEAKS = """
import re, sys
from pathlib import Path
from convsurgeon import convert_checkpoint
for source, target, weight_map in (sys.argv[1:4], sys.argv[4:]):
    convert_checkpoint(source, target, weight_map)
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""Prints the peak after each conversion; what getrusage tells starts at the peak of the parent."""


def write_source(path: Path, count: int) -> None:
    """Write a safetensors file of `count` weights, of random bytes, so that nothing can be left out or shared."""
    tensors = {
        f"blocks.{at}.conv.weight": {"dtype": "F32", "shape": SHAPE, "data_offsets": [at * BYTES, (at + 1) * BYTES]}
        for at in range(count)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(os.urandom(BYTES))


def write_map(path: Path, count: int) -> None:
    """Write the map that moves each of them."""
    names = tuple(f"blocks.{at}.conv.weight" for at in range(count))
    entries = tuple(Entry(name, SHAPE, (*SHAPE[:2], 1, SHAPE[2]), "float32") for name in names)
    WeightMap("Benchmark", -2, entries, names).save(path)


def seconds(command: list[str], target: Path, *, cold: bool) -> float:
    """How long a command takes that writes the target anew."""
    target.unlink(missing_ok=True)
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def growth_of_peak(folder: Path, source: Path, target: Path, weight_map: Path) -> tuple[float, float]:
    """The peak of a process with everything imported, and by how much the large file raises it, in MiB."""
    tiny = [folder / name for name in ("tiny.safetensors", "tiny.2d.safetensors", "tiny.json")]
    write_source(tiny[0], 1)
    write_map(tiny[2], 1)
    target.unlink(missing_ok=True)
    command = [sys.executable, "-c", PEAKS, *map(str, (*tiny, source, target, weight_map))]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = (int(line) / 1024 for line in answer.split())
    return before, after - before


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the source")
    parser.add_argument("--rounds", type=int, default=8, help="even, so that each goes first as often")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each, which only root can")
    parser.add_argument("--folder", help="where there is room for twice the size; all is removed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source, target, weight_map = (folder / one for one in ("m.safetensors", "2d.safetensors", "map.json"))
        count = int(options.gib * 1024)
        write_source(source, count)
        write_map(weight_map, count)
        convert = [
            sys.executable,
            "-m",
            "convsurgeon",
            "checkpoint",
            str(source),
            str(target),
            "--map",
            str(weight_map),
        ]
        commands = {
            "cp": ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)],
            "convsurgeon": convert,
        }
        times: dict[str, list[float]] = {one: [] for one in commands}
        for turn in range(options.rounds + 1):
            for one in sorted(commands, reverse=turn % 2 == 1):
                times[one].append(seconds(commands[one], target, cold=options.cold))
            print(f"round {turn}: " + ", ".join(f"{one} {times[one][-1]:.2f} s" for one in commands), flush=True)
        peak, growth = growth_of_peak(folder, source, target, weight_map)
    copy, ours = (statistics.median(times[one][1:]) for one in commands)
    print(f"{options.gib:g} GiB in {count} tensors, {'nothing' if options.cold else 'the source'} in the page cache")
    print(
        f"cp and sync {copy:.2f} s, convsurgeon checkpoint {ours:.2f} s, medians of {options.rounds}: {ours / copy:.2f}"
    )
    print(f"peak memory {peak:.0f} MiB with everything imported, {growth:.1f} MiB more for the file")


if __name__ == "__main__":
    main()
