#!/bin/sh
# The first of two nodes. GPUS: on this node. Then start worker.sh on the other, and serve.sh here.
# On CPUs: export VLLM_LMTP_RAY_CPU=1 first, on both nodes, and let GPUS pretend to be what you want.
set -eu
: "${HEAD:?address of this node that the other can reach}"
export VLLM_HOST_IP="$HEAD"
exec ray start --block --head --node-ip-address="$HEAD" --port="${PORT:-6379}" \
  --num-gpus="${GPUS:-1}" --include-dashboard=false
