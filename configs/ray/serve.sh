#!/bin/sh
# Serve a stage-1 checkpoint over both nodes; run on the first, once both have started.
# TP splits every layer (ranks on one node if they can be), PP the stack of layers (across nodes).
set -eu
: "${HEAD:?address of the first node}" "${CHECKPOINT:?stage-1 folder or Hugging Face id}"
export VLLM_HOST_IP="$HEAD" RAY_ADDRESS="$HEAD:${PORT:-6379}"
exec vllm serve "$CHECKPOINT" --speculative-config lmtp --distributed-executor-backend ray \
  --tensor-parallel-size "${TP:-2}" --pipeline-parallel-size "${PP:-1}" "$@"
