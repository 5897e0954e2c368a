# The commands of the README. Each works on a fresh machine: .ci/prepare says what it needs, and
# installs it where it may.

RUN := .ci/in-env

.PHONY: help test demo lint format

help:
	@echo "make demo    mount a small repository over real files, and read it"
	@echo "make test    run the linters, the type checker and all tests (some minutes)"
	@echo "make lint    run the linters and the type checker"
	@echo "make format  format the code"

test: lint
	$(RUN) pytest -q -rs -n 2 --dist worksteal tests/pure tests/io
	$(RUN) pytest -q -rs -n 2 --dist loadfile tests/mount

demo:
	$(RUN) python -m tests.demo

lint:
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format:
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
