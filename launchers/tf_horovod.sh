#!/bin/sh
# tf-horovod on this node by Open MPI: one worker a GPU or, without GPUs, a core; WORKERS=N says otherwise. All arguments
# go to the script.
#   launchers/tf_horovod.sh --recipe digits-resnet18 --run-dir runs/a
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
export PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"
gpus=$("$python" -c 'from distributed.devices import visible_gpus; print(visible_gpus())')
workers=${WORKERS:-$(if [ "$gpus" -gt 0 ]; then echo "$gpus"; else env -u OMP_NUM_THREADS nproc; fi)}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # each worker would take every core for itself
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"

# Not one core for a worker and all its threads; as root only if told so; CPU workers may outnumber the cores.
set -- "$python" -m distributed.tf_horovod "$@" --workers "$workers"
set -- --mca oob_tcp_if_include lo --mca btl_tcp_if_include lo "$@"
[ "$gpus" -gt 0 ] || set -- --oversubscribe "$@"
[ "$(id -u)" -ne 0 ] || set -- --allow-run-as-root "$@"
exec mpirun -np "$workers" --bind-to none "$@"
