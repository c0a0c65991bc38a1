#!/bin/sh
# tf-mirrored on this node: one process that drives every GPU or, without GPUs, a core a worker; WORKERS=N says otherwise.
# All arguments go to the script.
#   launchers/tf_mirrored.sh --recipe digits-resnet18 --run-dir runs/a
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
export PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"
gpus=$("$python" -c 'from distributed.devices import visible_gpus; print(visible_gpus())')
workers=${WORKERS:-$(if [ "$gpus" -gt 0 ]; then echo "$gpus"; else env -u OMP_NUM_THREADS nproc; fi)}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # NumPy and the loader would take every core each
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"

exec "$python" -m distributed.tf_mirrored "$@" --workers "$workers"
