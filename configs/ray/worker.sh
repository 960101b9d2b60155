#!/bin/sh
# The second of two nodes. Needs the same vllm-lmtp and vLLM as the first, and the checkpoint at the
# same path (or as a Hugging Face id on both).
set -eu
: "${HEAD:?address of the first node}" "${NODE:?address of this node}"
export VLLM_HOST_IP="$NODE"
exec ray start --block --address="$HEAD:${PORT:-6379}" --node-ip-address="$NODE" \
  --num-gpus="${GPUS:-1}"
