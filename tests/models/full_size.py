"""Published architectures at the sizes that they are used in, with random weights: what is timed.

Each takes some 20 to 300 ms a forward on one core; what is built of equal layers has a few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from models import signal_designs, speech_designs
from models.collection import Architecture, Inputs, channels_first, features, noise, tokens, transformers, wave, words
from torch import nn


@dataclass(frozen=True)
class FullSize(Architecture):
    """An architecture that is large enough to be timed.

    `depthwise_heavy`: at least half of its convolutions with a kernel above 1 are depthwise.
    """

    depthwise_heavy: bool = False


FULL_SIZE: list[FullSize] = []


def add(
    name: str,
    build: Callable[[], Any],
    inputs: Callable[[int, int], Inputs],
    length: int,
    *,
    depthwise_heavy: bool = False,
) -> None:
    FULL_SIZE.append(FullSize(name, build, inputs, (length,), depthwise_heavy=depthwise_heavy))


def is_depthwise_heavy(model: nn.Module) -> bool:
    """Whether at least half of the convolutions with a kernel above 1 are depthwise."""
    found = [one for one in model.modules() if isinstance(one, (nn.Conv1d, nn.ConvTranspose1d))]
    depthwise = [one.groups == one.in_channels > 1 for one in found if one.kernel_size[0] > 1]
    return bool(depthwise) and 2 * sum(depthwise) >= len(depthwise)


_TWO = {"num_hidden_layers": 2}

add("HiFi-GAN", transformers("SpeechT5HifiGan", "SpeechT5HifiGanConfig"), features("spectrogram", 80), 20)
add(
    "FastSpeech2 HiFi-GAN",
    transformers("FastSpeech2ConformerHifiGan", "FastSpeech2ConformerHifiGanConfig"),
    features("spectrogram", 80),
    8,
)
add("Encodec", transformers("EncodecModel", "EncodecConfig"), channels_first("input_values", 1), 3200)
add("DAC", transformers("DacModel", "DacConfig"), channels_first("input_values", 1), 1024)
add("Mimi", transformers("MimiModel", "MimiConfig"), channels_first("input_values", 1), 3840)
add(
    "UnivNet",
    transformers("UnivNetModel", "UnivNetConfig"),
    lambda batch, length: {"input_features": noise(batch, length, 100), "noise_sequence": noise(batch, length, 64)},
    16,
)
add("Wav2Vec2, 2 layers", transformers("Wav2Vec2Model", "Wav2Vec2Config", **_TWO), wave, 8000)
add("SEW, 2 layers", transformers("SEWModel", "SEWConfig", **_TWO), wave, 16000)
add(
    "Wav2Vec2Conformer, 2 layers",
    transformers("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", **_TWO),
    wave,
    8000,
)
add(
    "Wav2Vec2Bert, 2 layers",
    transformers("Wav2Vec2BertModel", "Wav2Vec2BertConfig", **_TWO),
    features("input_features", 160),
    100,
    depthwise_heavy=True,
)
add(
    "Parakeet, 2 layers",
    transformers("ParakeetEncoder", "ParakeetEncoderConfig", "parakeet.modeling_parakeet", **_TWO),
    features("input_features", 80),
    400,
    depthwise_heavy=True,
)
add(
    "Mamba, 2 layers",
    transformers("MambaModel", "MambaConfig", **_TWO, vocab_size=1000),
    lambda batch, length: {**words(batch, length), "use_cache": False},
    64,
    depthwise_heavy=True,
)
add("SqueezeBERT, 2 layers", transformers("SqueezeBertModel", "SqueezeBertConfig", **_TWO), words, 128)


def snac() -> nn.Module:
    from snac import SNAC

    model: nn.Module = SNAC(
        sampling_rate=24000,
        encoder_dim=48,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=1024,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=None,
        vq_strides=[4, 2, 1],
        noise=False,
    )
    return model


def oobleck() -> nn.Module:
    from diffusers import AutoencoderOobleck
    from models.collection import Reconstructs

    return Reconstructs(AutoencoderOobleck(encoder_hidden_size=64, decoder_channels=64, decoder_input_channels=32))


def unet1d() -> nn.Module:
    from diffusers import UNet1DModel

    model: nn.Module = UNet1DModel(sample_size=65536, extra_in_channels=256, block_out_channels=(128, 128, 256))
    return model


def conformer() -> nn.Module:
    from conformer import Conformer

    model: nn.Module = Conformer(dim=256, depth=4, dim_head=64, heads=4, conv_kernel_size=31)
    return model


def enformer_stem() -> nn.Module:
    from enformer_pytorch import Enformer, EnformerConfig

    whole = Enformer(EnformerConfig(depth=1))
    return nn.Sequential(whole.stem, whole.conv_tower)


def tcn(**options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from pytorch_tcn import TCN

        model: nn.Module = TCN(num_inputs=40, num_channels=[256] * 6, kernel_size=4, **options)
        return model

    return build


add("SNAC", snac, channels_first("audio_data", 1), 4096, depthwise_heavy=True)
add("Oobleck, half as wide", oobleck, channels_first("x", 2), 2048)
add("UNet1D", unet1d, lambda batch, length: {"sample": noise(batch, 2, length), "timestep": 3}, 1024)
add("Conformer", conformer, features("x", 256), 200, depthwise_heavy=True)
add(
    "Enformer stem",
    enformer_stem,
    lambda batch, length: {"input": torch.eye(4)[tokens(batch, length) % 4].mT.contiguous()},
    512,
)
add("TCN", tcn(use_norm="weight_norm"), channels_first("x", 40), 200)
add("TCN, gated", tcn(use_norm="batch_norm", use_gate=True, use_skip_connections=True), channels_first("x", 40), 200)

add("QuartzNet 5x5", speech_designs.quartznet, channels_first("input", 64), 300, depthwise_heavy=True)
add("MatchboxNet 3x2x64", speech_designs.matchboxnet, channels_first("input", 64), 2000, depthwise_heavy=True)
add("DS-CNN", speech_designs.keyword_spotter, channels_first("input", 40), 3000, depthwise_heavy=True)
add("Conv-TasNet", speech_designs.ConvTasNet, channels_first("x", 1), 4000, depthwise_heavy=True)
add("Vocos", speech_designs.Vocos, channels_first("x", 100), 94, depthwise_heavy=True)
add("WaveNet", speech_designs.WaveNet, channels_first("x", 256), 1600)
add("Demucs denoiser", speech_designs.Denoiser, channels_first("x", 1), 10916)
add("ECAPA-TDNN", speech_designs.EcapaTdnn, channels_first("x", 80), 300)

add("M5", signal_designs.m5, channels_first("input", 1), 32000)
add("Wave-U-Net", signal_designs.WaveUNet, channels_first("x", 1), 16384)
add("EEGNet", signal_designs.eegnet, channels_first("input", 64), 4000, depthwise_heavy=True)
add("DeepSleepNet", signal_designs.SleepStager, lambda batch, length: {"x": noise(16 * batch, 1, length)}, 3000)
add("InceptionTime", signal_designs.InceptionTime, channels_first("x", 12), 1000)
add("ECG ResNet", signal_designs.HeartNet, channels_first("x", 12), 4096)
add("ModernTCN", signal_designs.modern_tcn, channels_first("input", 12), 2000, depthwise_heavy=True)
