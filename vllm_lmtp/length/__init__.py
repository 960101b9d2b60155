"""How long a draft should be, found while serving. Plain Python: no torch, no vLLM, no clock."""
