#!/usr/bin/env bash
# One host with several GPUs: one process sees them all, and needs nothing but the command.
# With one process for each GPU instead: the last line.
#   bash docs/examples/one-host.sh
set -euo pipefail
jaxcnn train --config resnet --train.batch_size=1024 "$@"
# jaxcnn launch 8 --gpus -- jaxcnn train --config resnet --train.batch_size=1024
