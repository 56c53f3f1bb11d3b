#!/bin/sh
# LightlyTrain (AGPL) in an environment of its own, benchmarks/.venv-peers, for pretraining_step.py and data_loading.py.
# torch first and on its own, so that its requirements do not bring another build of it.
set -eu
cd "$(dirname "$0")/../.."
venv=benchmarks/.venv-peers
uv=.venv/bin/uv
"$uv" venv --quiet --seed --python .venv/bin/python "$venv"
"$venv/bin/python" -m pip install --quiet --progress-bar off -r requirements/torch.txt
printf 'lightly-train==0.18.0\n' |
    "$uv" pip compile - --quiet --python "$venv/bin/python" --no-annotate --no-header |
    grep -v -E '^(torch==|triton|nvidia|cuda)' >"$venv/requirements.txt"
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps -r "$venv/requirements.txt"
echo "LightlyTrain is in $venv"
