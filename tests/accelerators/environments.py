"""Environments of their own for toolchains that don't go with each other: made once on a machine, and kept."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "convsurgeon-tests"
OURS = ("numpy", "networkx", "jinja2", "fsspec", "safetensors", "typer", "rich")
"""What convsurgeon itself needs, beside torch."""

EXECUTORCH = ("executorch==1.5.1",)
LITERT = ("litert-torch==0.10.0", "ethos-u-vela==5.2.0")


def python_with(*packages: str) -> Path:
    """The Python of an environment with this torch and these packages, made if it isn't there.

    torch comes first: what wants torch would bring another.
    """
    release = torch.__version__.partition("+")[0]
    key = hashlib.sha256(json.dumps([release, sys.version, *packages, *OURS]).encode()).hexdigest()[:16]
    home = HOME / key
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        if not home.exists():
            making = home.with_name(f"{key}.making")
            shutil.rmtree(making, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", making], check=True)
            pins = making / "pins.txt"
            pins.write_text(f"torch=={release}\n")
            for wanted in ((f"torch=={release}",), (*OURS, *packages)):
                _run([making / "bin/python", "-m", "pip", "install", "-q", "-c", pins, *wanted])
            making.rename(home)
    return home / "bin/python"


def rows(python: Path, worker: str, *arguments: str) -> dict[str, Any]:
    """What a worker beside this file prints, which is JSON on its last line."""
    path = os.pathsep.join(str(one) for one in (ROOT, ROOT / "tests"))
    done = _run([python, Path(__file__).with_name(worker), *arguments], {**os.environ, "PYTHONPATH": path})
    found: dict[str, Any] = json.loads(done.splitlines()[-1])
    return found


def make_all_apart() -> subprocess.Popen[bytes]:
    """Make every environment in a process of its own: it takes minutes, in which other tests run."""
    return subprocess.Popen(
        [sys.executable, __file__], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _run(command: list[Any], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


if __name__ == "__main__":
    for wanted in (EXECUTORCH, LITERT):
        python_with(*wanted)
