#!/usr/bin/env bash
# imagededup, cleanvision and fastdup in an environment of their own, for curation.py: install_curation_peers.sh FOLDER
# Versions are pinned. imagededup imports torch and torchvision for its network even where only hashes are asked for.
set -euo pipefail
folder=${1:?the folder of the environment to make; it must not exist yet}
uv=$(command -v uv || echo "$(dirname "$0")/../../.venv/bin/uv")
"$uv" venv --quiet --python 3.11 "$folder"
# --no-config: the project trims the requirements of its own torch.
install() { "$uv" pip install --no-config --quiet --python "$folder/bin/python" "$@"; }
install torch==2.13.0
# Without their requirements, which name old versions of the packages below.
install --no-deps imagededup==0.3.3.post2 cleanvision==0.3.7 fastdup==2.54 torchvision==0.29.2
install numpy==2.4.6 pandas==3.1.1 pillow==13.0.0 scikit-learn==1.9.1 scipy==1.17.1 matplotlib==3.11.2 \
  opencv-python-headless==5.0.0.93 imagehash==4.3.2 pywavelets==1.9.0 tqdm==4.70.1 tabulate==0.10.0 psutil==7.2.2 \
  packaging==26.3 pyyaml==6.0.3 requests==2.34.2 sentry-sdk==2.75.0 typing-extensions==4.16.0 networkx==3.6.1 pillow-heif==1.8.1
echo "The peers' Python is $folder/bin/python"
