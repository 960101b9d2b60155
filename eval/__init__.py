"""Measurements: what heads predict, what a target accepts, and that its output stays the same.

Stands at the top of the tree as `eval/`; `vllm_lmtp/eval` is a link to it. Used through
`vllm-lmtp eval ...`. LOG.md keeps dated results.
"""
