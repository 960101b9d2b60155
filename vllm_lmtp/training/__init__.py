"""Training of leap heads, and of the small model the project serves in its own tests.

Nothing here is imported while serving. Importing this package imports neither torch, transformers
nor vLLM; its modules do so when a run starts.
"""
