# The commands of the README. Each works on a fresh machine: .ci/prepare says what it needs, and
# installs it where it may.

RUN := .ci/in-env

FUZZ_SECONDS := 30
STRESS_SECONDS := 120
STRESS_SEED := 1

.PHONY: help test test-clients test-formats demo lint format fuzz stress

help:
	@echo "make demo    mount a small repository over real files, and read it"
	@echo "make test    run the linters, the type checker and all tests (some minutes)"
	@echo "make test-clients  have sixteen readers read all views, and write docs/CLIENTS.md (some minutes)"
	@echo "make test-formats  mount every real file there is, and write docs/FORMATS.md (some minutes)"
	@echo "make fuzz    look for input that breaks a decoder, FUZZ_SECONDS for each (Linux on x86-64)"
	@echo "make stress  read under faults of every kind for STRESS_SECONDS, then as long against a model"
	@echo "make lint    run the linters and the type checker"
	@echo "make format  format the code"

test: lint
	$(RUN) pytest -q -rs -n 2 --dist worksteal tests/pure tests/io
	$(RUN) pytest -q -rs -n 3 --dist worksteal tests/mount

test-clients:
	$(RUN) python -m tests.clients --write

test-formats:
	$(RUN) python -m tests.formats --write

demo:
	$(RUN) python -m tests.demo

fuzz:
	$(RUN) python -m tests.fuzz --seconds $(FUZZ_SECONDS)

stress:
	$(RUN) python -m tests.stress --seconds $(STRESS_SECONDS) --seed $(STRESS_SEED)
	$(RUN) python -m tests.stress.machine --seconds $(STRESS_SECONDS) --seed $(STRESS_SEED)

lint:
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format:
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
