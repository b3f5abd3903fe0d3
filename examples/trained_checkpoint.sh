#!/usr/bin/env bash
# A trained checkpoint through the command line: the model converted with its weights, the checkpoint moved and back.
#
#   examples/trained_checkpoint.sh [FOLDER]      (pip install 'convsurgeon[examples]')
#
# The weights are those of the voice activity detector in the `silero-vad` package.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$(mktemp -d)}"
trained=$(python -c "import importlib.util as u; print(u.find_spec('silero_vad').submodule_search_locations[0])")
cp "$trained/data/silero_vad_16k.safetensors" detector.safetensors

echo "-- convert the model, with these weights, and write the 2-D program, the weight map and the report"
convsurgeon convert "$here/voice_activity.py:VoiceActivityDetector" --checkpoint detector.safetensors \
  --input 2x576 --input 2x128 --input 2x128 --output detector-2d

echo "-- the checkpoint to 2-D, and back"
convsurgeon checkpoint detector.safetensors detector-2d.safetensors --map detector-2d/weight_map.json
convsurgeon checkpoint detector-2d.safetensors back.safetensors --map detector-2d/weight_map.json --to-1d
cmp detector.safetensors back.safetensors && echo "the same bytes came back"

echo "-- the trained original against the program that was written"
convsurgeon verify "$here/voice_activity.py:trained_detector" detector-2d/model.pt2 \
  --input 2x576 --input 2x128 --input 2x128
