"""The examples, run as a user would, on what they print."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import wave
from array import array
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def printed_by(name: str, *arguments: str) -> str:
    done = run_example(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_wav(path: Path, *, rate: int = 16_000, width: int = 2, channels: int = 1, seconds: float = 3.0) -> str:
    """A 440 Hz tone."""
    ticks = range(round(seconds * rate))
    tone = array("h", (round(8000 * math.sin(2 * math.pi * 440 * t / rate)) for t in ticks for _ in range(channels)))
    if sys.byteorder == "big":
        tone.byteswap()
    with wave.open(str(path), "wb") as file:
        file.setframerate(rate)
        file.setsampwidth(width)
        file.setnchannels(channels)
        file.writeframes(tone.tobytes())
    return str(path)


def largest_difference(output: str) -> tuple[int, float]:
    """The number of chunks compared, and how far the two curves are apart."""
    found = re.search(r"^largest difference over (\d+) chunks: (\S+)$", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1]), float(found[2])


def curves(output: str) -> list[tuple[float, float, float]]:
    """(second, probability in 1-D, probability in 2-D) for each line of the table."""
    rows = re.findall(r"^ +(\d+\.\d)  ([01]\.\d{3})  ([01]\.\d{3})\b", output, re.MULTILINE)
    return [(float(second), float(one), float(two)) for second, one, two in rows]


@pytest.fixture(scope="module")
def equivalence() -> str:
    return printed_by("equivalence.py")


def test_equivalence_prints_the_shapes_of_the_three_cases(equivalence: str) -> None:
    shapes = {
        "plain": ["(2, 4, 8)", "(2, 4, 1, 8)", "(2, 4, 8)"],
        "stride 2, padding 1": ["(2, 4, 5)", "(2, 4, 1, 5)", "(2, 4, 5)"],
        "dilation 2": ["(2, 4, 6)", "(2, 4, 1, 6)", "(2, 4, 6)"],
    }
    for name, expected in shapes.items():
        row = next(line for line in equivalence.splitlines() if line.startswith(name))
        assert re.findall(r"\([\d, ]+\)", row) == expected
        assert float(row.split()[-1]) <= 1e-5


def test_equivalence_aligns_its_columns(equivalence: str) -> None:
    header, *rows = [line for line in equivalence.splitlines() if "  " in line]
    assert len(rows) == 3
    for title in ("Conv1d", "Conv2d", "squeezed"):
        assert all(row[header.index(title)] == "(" for row in rows)


@pytest.fixture(scope="module")
def synthetic() -> str:
    return printed_by("voice_activity.py")


def test_voice_activity_converts_all_its_convolutions(synthetic: str) -> None:
    assert "convsurgeon: VoiceActivityDetector" in synthetic
    assert re.search(r"converted +6 convolutions", synthetic)
    assert "stft_conv.weight: [258, 1, 256] -> [258, 1, 1, 256]" in synthetic
    assert "equal on 2 samples" in synthetic


def test_voice_activity_keeps_the_lstm_cell_1d_and_says_so(synthetic: str) -> None:
    kept = synthetic[synthetic.index("kept 1-D") : synthetic.index("weights")]
    assert "LSTMCell" in kept


def test_voice_activity_curves_agree(synthetic: str) -> None:
    chunks, difference = largest_difference(synthetic)
    assert chunks == 12 * 16_000 // 512
    assert difference <= 1e-5
    assert all(abs(one - two) <= 1e-3 for _, one, two in curves(synthetic))


def test_voice_activity_hears_the_voice(synthetic: str) -> None:
    rows = curves(synthetic)
    assert [second for second, _, _ in rows] == [i / 2 for i in range(24)]
    voice = [two for second, _, two in rows if second % 4 >= 2]
    silence = [two for second, _, two in rows if second % 4 < 2]
    assert min(voice) > 0.3 > 0.1 > max(silence)
    means = re.search(r"mean: (\S+) where there is a voice, (\S+) in silence", synthetic)
    assert means is not None
    assert float(means[1]) > 0.5 > 0.05 > float(means[2])


def test_voice_activity_reads_a_wav_file(tmp_path: Path) -> None:
    output = printed_by("voice_activity.py", write_wav(tmp_path / "tone.wav"))
    chunks, difference = largest_difference(output)
    assert chunks == math.ceil(3 * 16_000 / 512)
    assert difference <= 1e-5
    assert [second for second, _, _ in curves(output)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert "mean:" not in output


def test_voice_activity_takes_a_wav_shorter_than_a_chunk(tmp_path: Path) -> None:
    output = printed_by("voice_activity.py", write_wav(tmp_path / "click.wav", seconds=0.01))
    assert largest_difference(output)[0] == 1


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        ({"rate": 44_100}, "44100 Hz"),
        ({"width": 1}, "8-bit"),
        ({"channels": 2}, "2 channel(s)"),
        ({"seconds": 0.0}, "0 bytes"),
    ],
)
def test_voice_activity_says_which_wav_files_it_accepts(tmp_path: Path, made: dict[str, int], seen: str) -> None:
    done = run_example("voice_activity.py", write_wav(tmp_path / "given.wav", **made))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "given.wav" in done.stderr
    assert seen in done.stderr
    assert "accepted: a WAV file of 16-bit PCM, 1 channel, 16000 Hz" in done.stderr


def test_voice_activity_names_a_file_it_cannot_read(tmp_path: Path) -> None:
    text = tmp_path / "not.wav"
    text.write_text("words")
    for path, seen in ((tmp_path / "absent.wav", "No such file"), (text, "accepted: a WAV file")):
        done = run_example("voice_activity.py", str(path))
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert path.name in done.stderr
        assert seen in done.stderr


def test_fine_tuning_follows_the_unconverted_run() -> None:
    output = printed_by("fine_tuning.py")
    rows = re.findall(r"^ +(\d+)  (\d\.\d{4})  (\d\.\d{4})$", output, re.MULTILINE)
    assert [int(step) for step, _, _ in rows] == [20, 30, 40, 50, 60, 70]
    assert all(abs(float(one) - float(two)) < 1e-3 for _, one, two in rows)
    assert float(rows[-1][2]) < 0.5 * float(rows[0][2])
    assert "the fine-tuned weights load into the original class" in output


def test_a_trained_checkpoint_goes_through_the_command_line(tmp_path: Path) -> None:
    command = ["bash", str(EXAMPLES / "trained_checkpoint.sh"), str(tmp_path)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert "the same bytes came back" in done.stdout
    assert "6 of 15 tensors moved to 2D" in done.stdout
    assert done.stdout.rstrip().splitlines()[-2].startswith("equal on 1 sample")
    assert (tmp_path / "detector-2d/model.pt2").exists()


def test_onnxruntime_hears_what_the_original_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    output = printed_by("onnx_runtime.py", str(tmp_path / "detector.onnx"))
    assert "ranks of the weights: [4]" in output
    found = re.search(r"over (\d+) chunks in onnxruntime: (\S+)", output)
    assert found is not None
    assert int(found[1]) == 125
    assert float(found[2]) < 1e-4


@pytest.mark.models
def test_a_sharded_checkpoint_comes_back_as_it_was() -> None:
    pytest.importorskip("transformers", reason="pip install .[models]")
    output = printed_by("sharded_checkpoint.py")
    assert re.search(r"^7 of 67 tensors moved", output, re.MULTILINE)
    assert len(re.findall(r"^model-.*: data sha256 [0-9a-f]{16} =$", output, re.MULTILINE)) == 3
    assert "and computes the same" in output
