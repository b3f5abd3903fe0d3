"""Published models in small configurations, with random weights: what people will convert."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A model, by how it is built, and its keyword inputs for a batch of so many, of some length.

    `lengths`: the sample's, and another; one where the model takes no other. `batched`: whether it takes batches.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    lengths: tuple[int, ...]
    batched: bool = True

    @property
    def sample(self) -> Inputs:
        return self.inputs(1, self.lengths[0])

    @property
    def other(self) -> Inputs:
        return self.inputs(2 if self.batched else 1, self.lengths[-1])


COLLECTION: list[Architecture] = []


def add(name: str, build: Callable[[], Any], inputs: Callable[[int, int], Inputs], *lengths: int, **more: Any) -> None:
    COLLECTION.append(Architecture(name, build, inputs, lengths, **more))


def transformers(name: str, config: str, home: str = "", **options: Any) -> Callable[[], nn.Module]:
    """A model of the package `transformers`, by the names of its class and of its configuration."""

    def build() -> nn.Module:
        package = importlib.import_module("transformers")
        made = getattr(package, config)(**options)
        if "attn_implementation" not in options:
            made._attn_implementation = "eager"
        kind = getattr(importlib.import_module(f"transformers.models.{home}") if home else package, name)
        model: nn.Module = kind(made)
        return model

    return build


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.1


def tokens(batch: int, length: int, first: int = 3) -> torch.Tensor:
    return first + torch.arange(batch * length).reshape(batch, length) % 30


def wave(batch: int, length: int) -> Inputs:
    return {"input_values": noise(batch, length)}


def features(name: str, channels: int) -> Callable[[int, int], Inputs]:
    return lambda batch, length: {name: noise(batch, length, channels)}


def channels_first(name: str, channels: int) -> Callable[[int, int], Inputs]:
    return lambda batch, length: {name: noise(batch, channels, length)}


def words(batch: int, length: int) -> Inputs:
    return {"input_ids": tokens(batch, length)}


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_WAV2VEC2 = {
    **_SMALL,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 32,
}


def wav2vec2(name: str, config: str, **options: Any) -> None:
    label = " ".join([name, *(key for key in options if key.startswith(("feat", "add", "conv_pos_b")))])
    lengths = (8000, 9600) if "XVector" in name else (4000, 5200)
    add(label, transformers(name, config, **{**_WAV2VEC2, **options}), wave, *lengths)


wav2vec2("Wav2Vec2Model", "Wav2Vec2Config")
wav2vec2("Wav2Vec2ForCTC", "Wav2Vec2Config", feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
wav2vec2("Wav2Vec2Model", "Wav2Vec2Config", add_adapter=True, output_hidden_size=32)
wav2vec2("HubertModel", "HubertConfig")
wav2vec2("HubertModel", "HubertConfig", conv_pos_batch_norm=True)
wav2vec2("WavLMModel", "WavLMConfig")
wav2vec2("WavLMForXVector", "WavLMConfig", tdnn_dim=(32,) * 5)
wav2vec2("UniSpeechModel", "UniSpeechConfig")
wav2vec2("UniSpeechSatModel", "UniSpeechSatConfig")
wav2vec2("SEWModel", "SEWConfig", conv_dim=(32,) * 13, squeeze_factor=2)
wav2vec2("Data2VecAudioModel", "Data2VecAudioConfig", conv_pos_kernel_size=7, num_conv_pos_embeddings=3)
wav2vec2("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", conv_depthwise_kernel_size=15)
add(
    "Wav2Vec2BertModel",
    transformers(
        "Wav2Vec2BertModel",
        "Wav2Vec2BertConfig",
        **_SMALL,
        feature_projection_input_dim=20,
        conv_depthwise_kernel_size=15,
        add_adapter=True,
        output_hidden_size=32,
    ),
    features("input_features", 20),
    *(50, 64),
)

_COUPLED = {
    **{f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "use_cache": False},
}
WHISPER = {
    **_COUPLED,
    "d_model": 32,
    "num_mel_bins": 20,
    "max_source_positions": 50,
    "max_target_positions": 20,
    "vocab_size": 100,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    **{"suppress_tokens": None, "begin_suppress_tokens": None},
}


def decoded(encoded: Callable[[int, int], Inputs]) -> Callable[[int, int], Inputs]:
    return lambda batch, length: {
        **encoded(batch, length),
        "decoder_input_ids": tokens(batch, 3),
        "use_cache": False,
    }


add(
    "WhisperModel",
    transformers("WhisperModel", "WhisperConfig", **WHISPER),
    decoded(channels_first("input_features", 20)),
    100,
)
add(
    "Speech2TextModel",
    transformers(
        "Speech2TextModel",
        "Speech2TextConfig",
        **_COUPLED,
        d_model=32,
        conv_channels=32,
        input_feat_per_channel=20,
        vocab_size=100,
        max_source_positions=200,
    ),
    decoded(features("input_features", 20)),
    *(80, 100),
)
add(
    "MoonshineModel",
    transformers(
        "MoonshineModel",
        "MoonshineConfig",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        **{f"{side}_num_{key}": 2 for side in ("encoder", "decoder") for key in ("hidden_layers", "attention_heads")},
        use_cache=False,
    ),
    decoded(wave),
    *(4000, 5200),
)
_ENCODEC = {"num_filters": 8, "codebook_size": 64, "hidden_size": 32, "codebook_dim": 32, "num_lstm_layers": 1}
add(
    "EncodecModel",
    transformers("EncodecModel", "EncodecConfig", **_ENCODEC, target_bandwidths=[1.5]),
    channels_first("input_values", 1),
    3200,
    4000,
)
add(
    "EncodecModel stereo",
    transformers(
        "EncodecModel",
        "EncodecConfig",
        **_ENCODEC,
        target_bandwidths=[1.5],
        audio_channels=2,
        use_causal_conv=False,
        norm_type="time_group_norm",
    ),
    channels_first("input_values", 2),
    *(3200, 4000),
)
add(
    "DacModel",
    transformers(
        "DacModel",
        "DacConfig",
        encoder_hidden_size=8,
        decoder_hidden_size=64,
        n_codebooks=4,
        codebook_size=64,
        codebook_dim=4,
    ),
    channels_first("input_values", 1),
    *(2048, 4096),
)
add(
    "MimiModel",
    transformers(
        "MimiModel",
        "MimiConfig",
        num_filters=8,
        hidden_size=32,
        codebook_size=64,
        codebook_dim=16,
        num_quantizers=4,
        num_semantic_quantizers=1,
        vector_quantization_hidden_dimension=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        upsample_groups=32,
    ),
    channels_first("input_values", 1),
    *(7680, 9600),
)
VITS = {
    "vocab_size": 38,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 64,
    "flow_size": 32,
    "spectrogram_bins": 17,
    "upsample_initial_channel": 32,
    "upsample_rates": [4, 4],
    "upsample_kernel_sizes": [8, 8],
    "duration_predictor_filter_channels": 32,
    "depth_separable_channels": 2,
    "prior_encoder_num_flows": 2,
    "posterior_encoder_num_wavenet_layers": 2,
    "wavenet_dilation_rate": 2,
}
add("VitsModel", transformers("VitsModel", "VitsConfig", **VITS), words, 6, 9)
_HIFIGAN = {
    "model_in_dim": 20,
    "upsample_initial_channel": 32,
    "upsample_rates": [4, 4],
    "upsample_kernel_sizes": [8, 8],
}
add(
    "SpeechT5HifiGan",
    transformers("SpeechT5HifiGan", "SpeechT5HifiGanConfig", **_HIFIGAN),
    features("spectrogram", 20),
    30,
    41,
)
add(
    "FastSpeech2ConformerHifiGan",
    transformers("FastSpeech2ConformerHifiGan", "FastSpeech2ConformerHifiGanConfig", **_HIFIGAN),
    features("spectrogram", 20),
    30,
    41,
)
add(
    "FastSpeech2ConformerModel",
    transformers(
        "FastSpeech2ConformerModel",
        "FastSpeech2ConformerConfig",
        hidden_size=32,
        vocab_size=40,
        num_mel_bins=20,
        **{f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "num_attention_heads")},
        **{"encoder_linear_units": 64, "decoder_linear_units": 64, "speech_decoder_postnet_units": 32},
        **{f"{what}_predictor_channels": 32 for what in ("duration", "energy", "pitch")},
    ),
    words,
    *(5, 8),
    batched=False,
)
add(
    "UnivNetModel",
    transformers(
        "UnivNetModel",
        "UnivNetConfig",
        model_in_channels=8,
        kernel_predictor_hidden_channels=8,
        model_hidden_channels=8,
        num_mel_bins=20,
    ),
    lambda batch, length: {"input_features": noise(batch, length, 20), "noise_sequence": noise(batch, length, 8)},
    *(10, 13),
)
_SEAMLESS = {
    "hidden_size": 32,
    "speech_encoder_layers": 2,
    "speech_encoder_attention_heads": 2,
    "speech_encoder_intermediate_size": 64,
    "feature_projection_input_dim": 20,
    "conv_depthwise_kernel_size": 15,
}
add(
    "SeamlessM4TSpeechEncoder",
    transformers(
        "SeamlessM4TSpeechEncoder",
        "SeamlessM4TConfig",
        "seamless_m4t.modeling_seamless_m4t",
        **_SEAMLESS,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    ),
    features("input_features", 20),
    *(40, 52),
)
add(
    "SeamlessM4Tv2SpeechEncoder",
    transformers(
        "SeamlessM4Tv2SpeechEncoder", "SeamlessM4Tv2Config", "seamless_m4t_v2.modeling_seamless_m4t_v2", **_SEAMLESS
    ),
    features("input_features", 20),
    *(40, 52),
)
add(
    "ParakeetEncoder",
    transformers(
        "ParakeetEncoder",
        "ParakeetEncoderConfig",
        "parakeet.modeling_parakeet",
        **_SMALL,
        num_mel_bins=16,
        subsampling_conv_channels=8,
        conv_kernel_size=9,
    ),
    features("input_features", 16),
    *(64, 80),
)
add(
    "Qwen2AudioEncoder",
    transformers(
        "Qwen2AudioEncoder",
        "Qwen2AudioEncoderConfig",
        "qwen2_audio.modeling_qwen2_audio",
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=20,
        max_source_positions=50,
    ),
    channels_first("input_features", 20),
    100,
)
add(
    "GraniteSpeechCTCEncoder",
    transformers(
        "GraniteSpeechCTCEncoder",
        "GraniteSpeechEncoderConfig",
        "granite_speech.modeling_granite_speech",
        hidden_dim=32,
        input_dim=20,
        num_layers=2,
        num_heads=2,
        dim_head=16,
        context_size=20,
        output_dim=10,
        feedforward_mult=2,
        conv_kernel_size=15,
    ),
    features("hidden_states", 20),
    *(40, 60),
)

_LM = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
MAMBA = {**_LM, "state_size": 8}


def uncached(batch: int, length: int) -> Inputs:
    return {**words(batch, length), "use_cache": False}


add("MambaModel", transformers("MambaModel", "MambaConfig", **MAMBA), uncached, 12, 17)
add(
    "Mamba2Model",
    transformers("Mamba2Model", "Mamba2Config", **MAMBA, num_heads=4, head_dim=16, n_groups=2, chunk_size=8),
    uncached,
    12,
    17,
)
add("FalconMambaModel", transformers("FalconMambaModel", "FalconMambaConfig", **MAMBA), uncached, 12, 17)
add(
    "Lfm2Model",
    transformers(
        "Lfm2Model", "Lfm2Config", **_LM, **_ATTENTION, layer_types=["conv", "full_attention"], block_ff_dim=64
    ),
    uncached,
    *(12, 17),
)
add(
    "RecurrentGemmaModel",
    transformers(
        "RecurrentGemmaModel",
        "RecurrentGemmaConfig",
        **{**_LM, "num_hidden_layers": 3},
        num_attention_heads=2,
        intermediate_size=64,
        lru_width=32,
        attention_window_size=16,
    ),
    uncached,
    *(12, 15),
)
_BERT = {key: _LM[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "pad_token_id")}
add(
    "SqueezeBertModel",
    transformers(
        "SqueezeBertModel", "SqueezeBertConfig", **_BERT, embedding_size=32, num_attention_heads=4, intermediate_size=64
    ),
    words,
    12,
    17,
)
add(
    "ConvBertModel",
    transformers(
        "ConvBertModel",
        "ConvBertConfig",
        **_BERT,
        embedding_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        conv_kernel_size=3,
    ),
    words,
    *(12, 17),
)
add(
    "DebertaV2Model",
    transformers(
        "DebertaV2Model",
        "DebertaV2Config",
        **_SMALL,
        vocab_size=64,
        conv_kernel_size=3,
        conv_act="gelu",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    ),
    words,
    *(12, 17),
)
add(
    "CanineModel",
    transformers("CanineModel", "CanineConfig", **_SMALL, local_transformer_stride=16, num_hash_buckets=64),
    lambda batch, length: {"input_ids": tokens(batch, length, first=40)},
    32,
)


def forecast(batch: int, length: int) -> Inputs:
    return {
        "past_values": noise(batch, 19),
        "past_time_features": noise(batch, 19, 1),
        "past_observed_mask": torch.ones(batch, 19),
        "future_values": noise(batch, 4),
        "future_time_features": noise(batch, 4, 1),
    }


_FORECAST = {
    **{"prediction_length": 4, "context_length": 16, "lags_sequence": [1, 2, 3], "num_time_features": 1, "d_model": 16},
    **{f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")},
    **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
}
add("InformerModel", transformers("InformerModel", "InformerConfig", **_FORECAST), forecast, 19)
add("AutoformerModel", transformers("AutoformerModel", "AutoformerConfig", **_FORECAST), forecast, 19)


def snac(**options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from snac import SNAC

        rates = {"encoder_rates": [3, 3, 4], "decoder_rates": [4, 3, 3]}
        codes = {"codebook_size": 64, "codebook_dim": 4, "vq_strides": [4, 2, 1]}
        model: nn.Module = SNAC(sampling_rate=16000, encoder_dim=8, decoder_dim=64, **rates, **codes, **options)
        return model

    return build


add("SNAC", snac(attn_window_size=None, noise=False), channels_first("audio_data", 1), 1152, 2304)
add("SNAC with noise and attention", snac(attn_window_size=8, noise=True), channels_first("audio_data", 1), 1152, 2304)


class Reconstructs(nn.Module):
    """An autoencoder, there and back."""

    def __init__(self, coder: Any) -> None:
        super().__init__()
        self.coder = coder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.coder.decode(self.coder.encode(x).latent_dist.mode()).sample
        return found


def oobleck() -> nn.Module:
    from diffusers import AutoencoderOobleck

    return Reconstructs(
        AutoencoderOobleck(
            encoder_hidden_size=16,
            downsampling_ratios=[2, 4, 4],
            channel_multiples=[1, 2, 4],
            decoder_channels=16,
            decoder_input_channels=8,
            audio_channels=2,
        )
    )


def unet1d() -> nn.Module:
    from diffusers import UNet1DModel

    model: nn.Module = UNet1DModel(sample_size=64, extra_in_channels=64, block_out_channels=(32, 32, 64))
    return model


add("AutoencoderOobleck", oobleck, channels_first("x", 2), 1024, 1536)
add("UNet1DModel", unet1d, lambda batch, length: {"sample": noise(batch, 2, length), "timestep": 3}, 64, 96)


def conformer() -> nn.Module:
    from conformer import Conformer

    model: nn.Module = Conformer(dim=32, depth=2, dim_head=16, heads=2, conv_kernel_size=15)
    return model


def enformer() -> nn.Module:
    from enformer_pytorch import Enformer, EnformerConfig

    made = EnformerConfig(dim=96, depth=1, heads=2, num_downsamples=3, target_length=-1, dim_divisible_by=8)
    model: nn.Module = Enformer(made)
    return model


def tcn(**options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from pytorch_tcn import TCN

        model: nn.Module = TCN(num_inputs=4, num_channels=[8, 8, 8], kernel_size=3, **options)
        return model

    return build


def cached(streaming: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import cached_conv as cc

        cc.use_cached_conv(streaming)
        return nn.Sequential(
            cc.Conv1d(4, 8, 5, padding=cc.get_padding(5)),
            nn.LeakyReLU(),
            cc.Conv1d(8, 8, 4, stride=2, padding=cc.get_padding(4, 2)),
            cc.ConvTranspose1d(8, 4, 4, stride=2, padding=1),
        )

    return build


add("Conformer", conformer, features("x", 32), 40, 51)
add("Enformer", enformer, lambda batch, length: {"x": torch.eye(4)[tokens(batch, length) % 4]}, 512, 1024)
add("TCN, causal", tcn(), channels_first("x", 4), 40, 51)
add(
    "TCN, gated",
    tcn(causal=False, use_skip_connections=True, use_norm="batch_norm", use_gate=True, activation="tanh"),
    channels_first("x", 4),
    40,
    51,
)
add("cached convolutions", cached(streaming=False), channels_first("input", 4), 64, 80)
add("cached convolutions, streaming", cached(streaming=True), channels_first("input", 4), 64, batched=False)


def adapted() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.GELU(), nn.Conv1d(8, 8, 5, padding=2), nn.GELU())
    model: nn.Module = get_peft_model(base, LoraConfig(target_modules=["0", "2"], r=2)).base_model.model
    return model


def spectrogram() -> nn.Module:
    from nnAudio.features import STFT

    model: nn.Module = STFT(n_fft=64, hop_length=16, output_format="Magnitude", verbose=False)
    return model


def librosa_spectrogram() -> nn.Module:
    from torchlibrosa import Spectrogram

    model: nn.Module = Spectrogram(n_fft=64, hop_length=16)
    return model


add("LoRA by peft", adapted, channels_first("input", 4), 32, 40)
add("nnAudio STFT", spectrogram, lambda batch, length: {"x": noise(batch, length)}, 512, 640)
add("torchlibrosa Spectrogram", librosa_spectrogram, lambda batch, length: {"input": noise(batch, length)}, 512, 640)
