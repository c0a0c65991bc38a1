#!/bin/sh
# torch-ddp on this node: one worker a GPU or, without GPUs, a core; WORKERS=N says otherwise. All arguments go to the script.
#   launchers/torch_ddp.sh --recipe digits-resnet18 --run-dir runs/a
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
export PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"
gpus=$("$python" -c 'from distributed.devices import visible_gpus; print(visible_gpus())')
workers=${WORKERS:-$(if [ "$gpus" -gt 0 ]; then echo "$gpus"; else env -u OMP_NUM_THREADS nproc; fi)}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # each worker would take every core for itself

# A port that nobody has, on loopback: the workers of one node need nobody else to hear them.
port=$("$python" -c 'from launchers.prefixes import free_port; print(free_port())')
exec "$python" -m torch.distributed.run --nproc-per-node="$workers" --nnodes=1 \
    --master-addr=127.0.0.1 --master-port="$port" \
    -m distributed.torch_ddp "$@" --workers "$workers"
