"""Tools that turn one checkpoint folder into another, or say what its heads really predict.

Nothing here is imported while serving. Every tool reads tensor by tensor, so that a model larger
than the memory passes through, and writes a folder that is either whole or not there.
"""
