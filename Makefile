# Each target sets up .venv when it is missing, so on a fresh machine one command is enough.
BIN := .venv/bin

.PHONY: demo test test-all test-distributed test-features test-wheels lint docs setup clean

demo: .venv/.ready
	$(BIN)/vllm-lmtp demo

# A test's engine takes one core, and half of its time passes in starting: hence several at once.
test: .venv/.ready
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder \
	  -m "not slow and not wheels and not distributed"

test-all: .venv/.ready
	$(BIN)/python -m pytest

test-distributed: .venv/.ready
	$(BIN)/python -m pytest tests/distributed tests/engine/test_processes.py \
	  --durations 20 --layouts tests/distributed/record.json
	$(BIN)/python -m tests.distributed.table

test-features: .venv/.ready
	$(BIN)/python -m pytest tests/features --features tests/features/record.json
	$(BIN)/python -m tests.features.table

test-wheels: .venv/.ready
	$(BIN)/python -m pytest -m wheels

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.ready
	$(BIN)/python -m vllm_lmtp.patches.page > docs/patches.md
	$(BIN)/mkdocs build --strict

setup:
	rm -f .venv/.ready
	.ci/setup

clean:
	rm -rf .venv build dist *.egg-info

.venv/.ready: pyproject.toml
	.ci/setup
