#!/usr/bin/env bash
# Quantizes the bundled digits model with its bundled samples and compares accuracy before and after.
# Fails if it drops by more than 0.1 points. With an argument, keeps the quantized model there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
output=$(cd "$(dirname "${1:-$work/digits.int8.onnx}")" && pwd)/$(basename "${1:-digits.int8.onnx}")

cd "$root"
"$python" -m models.digits samples "$work/samples" --count 64
"$python" -m vqonnx quantize models/digits/model.onnx "$output" --calibration "$work/samples" --target cpu
echo
"$python" -m models.digits compare models/digits/model.onnx "$output" --limit 0.1
