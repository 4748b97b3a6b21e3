#!/usr/bin/env bash
# One host with several GPUs: one process sees them all, and needs nothing but the command.
# With one process for each GPU in place of that: the last line.
#   bash docs/examples/one-host.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python -m jaxcnn.main --config configs/resnet.py --config.train.batch_size=1024 "$@"
# python scripts/launch_local.py 8 --gpus -- \
#   python -m jaxcnn.main --config configs/resnet.py --config.train.batch_size=1024
