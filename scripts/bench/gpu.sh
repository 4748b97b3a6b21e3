#!/usr/bin/env bash
# What only a GPU can show, each command nine minutes at most, on a machine that may have no network:
#
#     bash scripts/bench/gpu.sh                  # all parts, in their order
#     bash scripts/bench/gpu.sh setup bench      # some of them
#
#   setup     runs $PACK/setup.sh where there is one (wheels, images), and prepares CIFAR-10
#   checks    loss and gradients against the CPU's; the line for a lack of memory
#   resume    the same bytes twice, and after kills
#   bench     the five networks in bfloat16, batch 512 and 1,024, against PyTorch eager and compiled
#   calls     train.steps_per_call from 1 to 32
#   speedrun  configs/speedrun.py, twenty seeds
#   study     the trainings of `jaxcnn study`, continued by the next call until they are done
#
# Writes gpu-*.json into $OUT (default: docs/results); what has its file is passed over. TINY=1 takes
# sizes that a CPU computes in minutes. $PYTHON (python3) is used with the packages that it has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3} pack=${PACK:-.gpu} out=${OUT:-docs/results}
export PYTHONPATH=$PWD TFDS_DATA_DIR=${TFDS_DATA_DIR:-$PWD/runs/tfds}
# Contenders of a benchmark share the GPU; XLA would take most of its memory for the first.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
if [ -n "${TINY:-}" ]; then
  networks=(lenet) resumed=(lenet) batches=(16) kills=2
  check_options=(--networks lenet --batch_size 8)
  call_options=(--network lenet --images 2048 --batch_size 64 --calls 1 4 --rounds 1)
  speedrun_options=(--images 2000 --epochs 1 --seeds 1)
  study_options=(--budget minutes)
else
  networks=(lenet mobilenet resnet18 densenet40_k12 densenet_bc100_k12)
  resumed=(lenet resnet20 mobilenet) batches=(512 1024) kills=6
  check_options=()
  call_options=(--network lenet --network mobilenet)
  speedrun_options=(--dtype bfloat16 --seeds 20)
  study_options=(--budget night)
fi

failed=()

# within FILE COMMAND...: runs a command for nine minutes at most, unless its file is there.
within() {
  local file=$1
  shift
  if [ -e "$file" ]; then return; fi
  # A failure does not keep the rest from being measured.
  timeout --signal=TERM --kill-after=30 530 "$@" || failed+=("$(basename "$file")")
}

setup() {
  if [ -f "$pack/setup.sh" ]; then bash "$pack/setup.sh"; fi
  within "$TFDS_DATA_DIR/cifar10" "$python" -m jaxcnn prepare --allow-modified \
    --archive "$pack/data/cifar-10-batches-bin" --data_dir "$TFDS_DATA_DIR"
  "$python" -c 'import jax; print(jax.__version__, jax.devices())'
}

checks() {
  within "$out/gpu-checks.json" "$python" scripts/checks/accelerator.py \
    --out "$out/gpu-checks.json" "${check_options[@]}"
}

resume() {
  local network
  for network in "${resumed[@]}"; do
    within "$out/torture-gpu-$network.json" "$python" scripts/checks/torture.py \
      --kills "$kills" --name "gpu-$network" --output "$out" --config configs/resnet.py:digits \
      "--config.model.name=$network" --config.train.epochs=4 \
      --config.train.checkpoint_minutes=0.01
  done
}

bench() {
  local network batch
  for batch in "${batches[@]}"; do
    for network in "${networks[@]}"; do
      within "$out/gpu-steps-$network-$batch.json" "$python" scripts/bench/steps.py \
        --network "$network" --batch_size "$batch" --dtype bfloat16 --peer torch \
        --out "$out/gpu-steps-$network-$batch.json"
    done
  done
}

calls() {
  within "$out/gpu-calls.json" "$python" scripts/bench/calls.py --out "$out/gpu-calls.json" \
    "${call_options[@]}"
}

speedrun() {
  within "$out/gpu-speedrun.json" "$python" scripts/bench/speedrun.py \
    --out "$out/gpu-speedrun.json" "${speedrun_options[@]}"
}

study() {
  within "$out/gpu-study.json" "$python" -m jaxcnn study --out runs/gpu-study \
    "${study_options[@]}"
  # Only a study that is done has its file: one that was cut short goes on with the next call.
  if [[ " ${failed[*]} " != *" gpu-study.json "* ]] && [ ! -e "$out/gpu-study.json" ]; then
    cp "runs/gpu-study/${study_options[1]}/study.json" "$out/gpu-study.json"
  fi
}

mkdir -p "$out" runs
parts=("$@")
if [ $# -eq 0 ]; then parts=(setup checks resume bench calls speedrun study); fi
for part in "${parts[@]}"; do
  case "$part" in
    setup | checks | resume | bench | calls | speedrun | study) ;;
    *)
      echo "error: $part is not a part: setup, checks, resume, bench, calls, speedrun or study" >&2
      exit 1
      ;;
  esac
done
for part in "${parts[@]}"; do
  echo "== $part"
  "$part"
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "error: not finished: ${failed[*]}; the same command continues" >&2
  exit 1
fi
