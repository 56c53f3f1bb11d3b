#!/usr/bin/env bash
# The deduplication peers in an environment of their own: benchmarks/peers/install_curation.sh FOLDER
set -euo pipefail
folder=${1:?the folder of the environment to make}
uv=$(command -v uv || echo "$(dirname "$0")/../../.venv/bin/uv")
"$uv" venv --quiet --python 3.11 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" "torch==2.13.0"
# Without their requirements: these would bring another build of PyTorch, with gigabytes of CUDA.
"$uv" pip install --quiet --python "$folder/bin/python" --no-deps \
  imagededup==0.3.3.post2 cleanvision==0.3.7 fastdup==2.54 torchvision==0.29.2
"$uv" pip install --quiet --python "$folder/bin/python" \
  numpy pandas pillow scikit-learn matplotlib tqdm tabulate imagehash PyWavelets psutil packaging pyyaml requests \
  opencv-python-headless typing-extensions sentry-sdk
