"""A trained voice activity detector, converted to 2-D and compared with the original over a whole recording.

python examples/voice_activity.py [speech.wav]
The weights are those in the `silero-vad` package (MIT, https://github.com/snakers4/silero-vad).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import wave
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import convsurgeon

RATE, CHUNK, CONTEXT, STATE = 16_000, 512, 64, 128


class VoiceActivityDetector(nn.Module):
    """Silero VAD at 16 kHz: a learned spectrum, four convolutions, and an LSTM cell that carries the past."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, kernel_size=256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, STATE)
        self.final_conv = nn.Conv1d(STATE, 1, kernel_size=1)

    def forward(self, chunk: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, 64 + 512) samples and the state, (N, 128) twice -> probability of speech (N,), and the next state."""
        x = nn.functional.pad(chunk.unsqueeze(1), (0, 64), mode="reflect")
        real, imaginary = self.stft_conv(x).chunk(2, dim=1)
        x = torch.sqrt(real**2 + imaginary**2)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(conv(x))
        hidden, cell = self.lstm_cell(x.squeeze(-1), (hidden, cell))
        logit = self.final_conv(torch.relu(hidden).unsqueeze(-1))
        return torch.sigmoid(logit).flatten(), hidden, cell


def trained_detector() -> VoiceActivityDetector:
    package = importlib.util.find_spec("silero_vad")  # found, not imported: importing it would need torchaudio
    if package is None or package.origin is None:
        raise SystemExit("the weights are in the silero-vad package: pip install 'convsurgeon[examples]'")
    model = VoiceActivityDetector()
    model.load_state_dict(load_file(Path(package.origin).parent / "data/silero_vad_16k.safetensors"), strict=True)
    return model.eval()


@torch.inference_mode()
def speech_curve(model: nn.Module, signal: torch.Tensor) -> torch.Tensor:
    """The probability of speech in each chunk; a chunk is seen after the last samples of the one before."""
    signal = nn.functional.pad(signal, (CONTEXT, -len(signal) % CHUNK))
    curve, state = [], [torch.zeros(1, STATE)] * 2
    for chunk in signal.unfold(0, CONTEXT + CHUNK, CHUNK):
        probability, *state = model(chunk.unsqueeze(0), *state)
        curve.append(probability)
    return torch.cat(curve)


def read_wav(path: Path) -> torch.Tensor:
    accepted = f"accepted: a WAV file of 16-bit PCM, 1 channel, {RATE} Hz"
    try:
        with wave.open(str(path)) as file:
            rate, bits, channels = file.getframerate(), 8 * file.getsampwidth(), file.getnchannels()
            data = bytearray(file.readframes(file.getnframes()))
    except (OSError, EOFError, wave.Error) as error:
        raise SystemExit(f"{path}: {error or 'ends early'}; {accepted}") from None
    if (rate, bits, channels) != (RATE, 16, 1) or not data:
        raise SystemExit(f"{path}: {len(data)} bytes of {bits}-bit PCM, {channels} channel(s), {rate} Hz; {accepted}")
    return torch.frombuffer(data, dtype=torch.int16) / 2**15


def synthetic_voice(seconds: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two seconds of silence, two of a gliding voice between [a] and [i], and so on; with where the voice is."""
    t = torch.arange(seconds * RATE, dtype=torch.float64) / RATE
    pitch, vowel = 120 + 25 * torch.sin(1.4 * math.pi * t), 0.5 + 0.5 * torch.sin(3.8 * math.pi * t)
    phase = 2 * math.pi * torch.cumsum(pitch, 0) / RATE
    formants = ((750 - 450 * vowel, 90), (1200 + 1000 * vowel, 120), (2500 + 400 * vowel, 180))
    signal = torch.zeros_like(t)
    for k in range(1, 30):
        resonance = sum(width**2 / ((k * pitch - centre) ** 2 + width**2) for centre, width in formants)
        signal += resonance * torch.sin(k * phase) / math.sqrt(k)
    voiced = t % 4 >= 2
    signal *= voiced * torch.sin(4 * math.pi * t).clamp(min=0).sqrt()  # two syllables a second
    return (0.3 * signal / signal.abs().max()).float(), voiced


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a voice activity detector in 1-D and in 2-D, side by side.")
    parser.add_argument("wav", nargs="?", type=Path, help="16-bit PCM, mono, 16 kHz (default: a synthetic voice)")
    path = parser.parse_args().wav
    signal, voiced = synthetic_voice() if path is None else (read_wav(path), None)

    torch.manual_seed(0)
    torch.set_num_threads(1)  # a chunk is small: more threads only wait for each other
    model = trained_detector()
    samples = [(torch.randn(n, CONTEXT + CHUNK), torch.randn(n, STATE), torch.randn(n, STATE)) for n in (1, 3)]
    conversion = convsurgeon.convert(model, samples)
    print(conversion)

    original, converted = speech_curve(model, signal), speech_curve(conversion.module, signal)
    print("\nprobability of speech\n  second    1-D    2-D")
    half_second = torch.arange(len(original)) * CHUNK * 2 // RATE
    for i in half_second.unique():
        a, b = original[half_second == i].mean(), converted[half_second == i].mean()
        print(f"  {i / 2:6.1f}  {a:.3f}  {b:.3f}  {'#' * round(40 * float(b))}".rstrip())
    if voiced is not None:
        voice, silence = converted[voiced[::CHUNK]], converted[~voiced[::CHUNK]]
        print(f"mean: {voice.mean():.3f} where there is a voice, {silence.mean():.3f} in silence")
    difference = float((original - converted).abs().max())
    print(f"largest difference over {len(original)} chunks: {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit("the two curves differ by more than 1e-5")


if __name__ == "__main__":
    main()
