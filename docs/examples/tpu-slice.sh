#!/usr/bin/env bash
# A Cloud TPU slice of several hosts: the same command on every host; they find each other.
#   TPU=my-slice ZONE=us-east5-a BUCKET=gs://my-bucket bash docs/examples/tpu-slice.sh
# The slice was created before, and this project installed on each host: `pip install .[tpu]`.
# The bucket is mounted with Cloud Storage FUSE, so that all hosts see one run folder.
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?its zone}" "${BUCKET:?gs:// bucket for data and runs}"
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -eu
  mkdir -p ~/bucket
  mountpoint -q ~/bucket || gcsfuse --implicit-dirs '${BUCKET#gs://}' ~/bucket
  TFDS_DATA_DIR=~/bucket/data python3 -m jaxcnn train --config resnet \
    --train.batch_size=1024 --workdir ~/bucket/runs/resnet
"
