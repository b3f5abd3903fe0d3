"""A checkpoint in several safetensors files with an index, as large models have, there and back.

python examples/sharded_checkpoint.py      (pip install 'convsurgeon[models]')
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

import convsurgeon


def small_model() -> Wav2Vec2Model:
    torch.manual_seed(0)
    config = Wav2Vec2Config(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128)
    return Wav2Vec2Model(config).eval()


def data_digest(path: Path) -> str:
    """SHA-256 of what follows the header."""
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        there_and_back(Path(folder))


def there_and_back(folder: Path) -> None:
    model = small_model()
    model.save_pretrained(folder / "original", max_shard_size="8MB")

    weight_map = convsurgeon.convert(model, {"input_values": torch.randn(1, 4000)}).weight_map
    moved = convsurgeon.convert_checkpoint(folder / "original", folder / "converted", weight_map)
    convsurgeon.convert_checkpoint(folder / "converted", folder / "back", weight_map, "1d")
    print(f"{len(moved.moved)} of {moved.tensors} tensors moved; copied as they are: {', '.join(moved.copied)}")
    for shard in sorted((folder / "original").glob("*.safetensors")):
        digests = [data_digest(folder / name / shard.name) for name in ("original", "converted", "back")]
        same = shard.read_bytes() == (folder / "back" / shard.name).read_bytes()
        print(f"{shard.name}: data sha256 {digests[0][:16]} {'=' if len(set(digests)) == 1 else 'DIFFERS'}")
        if not same or len(set(digests)) != 1:
            raise SystemExit(f"{shard.name} came back changed")

    again = Wav2Vec2Model.from_pretrained(folder / "back").eval()
    with torch.no_grad():
        x = torch.randn(2, 4000)
        same = torch.equal(again(x).last_hidden_state, model(x).last_hidden_state)
    print(f"the original class loads what came back, and computes {'the same' if same else 'SOMETHING ELSE'}")
    if not same:
        raise SystemExit("the output changed")


if __name__ == "__main__":
    main()
