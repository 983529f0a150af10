# `make run` is all that a fresh machine needs.
PYTHON ?= python3
PORT ?= 8501
# Images of containers set it; then each process would compile the libraries anew, for 10 to 20 s.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv/bin
# A file stays in one process, whose fixtures its tests share; tests/conftest.py orders the files.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# With a CPU torch the torchvision that Unsloth brings breaks the import of transformers.
REQUIREMENTS := $(shell nvidia-smi >/dev/null 2>&1 && echo requirements.txt || echo requirements-cpu.txt)

.PHONY: help run setup setup-dev test test-all lint format bench bench-answer bench-pages bench-sweeps bench-gpu bench-packed bench-smollm test-gpu chaos screenshots docs settings commands diagram tree base clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: setup  ## Set up what is missing, then open the panel on 127.0.0.1:$(PORT)
	@echo "Spelltune is at http://127.0.0.1:$(PORT) (Ctrl-C ends the panel; runs go on)"
	@$(VENV)/spelltune panel --port $(PORT)

setup: .venv/.ready  ## Make .venv with the requirements of this machine

.venv/.ready: $(REQUIREMENTS) requirements-cpu.txt pyproject.toml scripts/install.py
	@$(PYTHON) -c 'import sys; sys.exit("Spelltune needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (make run PYTHON=python3.12)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "Installing $(REQUIREMENTS), about a gigabyte and a half (on a machine with a GPU, seven)"
	$(VENV)/python -m scripts.install --requirement $(REQUIREMENTS) --editable .
	@touch $@

setup-dev: .venv/.ready-dev

.venv/.ready-dev: .venv/.ready requirements-dev.txt
	$(VENV)/python -m scripts.install --requirement requirements-dev.txt
	@touch $@

test: setup-dev  ## Run the tests that a change should pass before it is sent
	$(VENV)/python -m pytest -m "not (slow or chaos or timed)" $(PARALLEL)

test-all: setup-dev  ## Run every test that this machine can: those of `make test`, the browser, several machines, the guides
	$(VENV)/python -m pytest -m "not (chaos or timed)" $(PARALLEL)
	$(VENV)/python -m pytest -m timed

lint: setup-dev  ## Check style and types
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

format: setup-dev  ## Fix style problems that can be fixed automatically
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

bench: setup-dev  ## Measure the presets, and the time from launch to first step, on this machine
	$(VENV)/python -m benchmarks.presets

bench-answer: setup-dev  ## Measure the wait for answers on this machine: a sweep of 64 trials, and one run
	$(VENV)/python -m benchmarks.answer

bench-pages: setup-dev  ## Measure each page on a store of 1,000 runs (10 minutes, 700 MB of disk)
	$(VENV)/python -m benchmarks.pages

bench-sweeps: setup-dev  ## Plan 4,096 trials, train a grid of 64 and let searches replay it (half an hour)
	$(VENV)/python -m benchmarks.sweeps --home results/bench/sweeps

bench-gpu: setup-dev  ## Train GPT-2 and Llama shapes through PEFT and Unsloth, and packs in bf16 beside TRL (needs an NVIDIA GPU)
	$(VENV)/python -m benchmarks.gpu_check
	$(VENV)/python -m benchmarks.packed --out results/bench/bf16 --phases check,seeds

bench-packed: setup-dev  ## Measure packs of adapters beside TRL, PEFT and Unsloth and keep profiles (needs an NVIDIA GPU)
	$(VENV)/python -m benchmarks.packed --out results/bench/packed --phases check,peak,packed,decode,baselines,processes,sweep,solo --solos 1
	$(VENV)/python -m benchmarks.packed --out results/bench/packed --phases solo --solos 8 --at-once 8 --first-solo 1
	$(VENV)/python -m benchmarks.packed --out results/bench/packed --shape qwen --phases check,peak,packed,baselines,processes

bench-smollm: setup-dev  ## Ask whether spelling teaches SmolLM2 135M its letters, and time each way (needs an NVIDIA GPU)
	$(VENV)/python -m benchmarks.smollm
	$(VENV)/python -m benchmarks.packed --out results/bench/packed --shape smollm2 --phases packed,baselines

test-gpu: setup-dev  ## Run the tests that need an NVIDIA GPU
	$(VENV)/python -m pytest -m gpu

chaos: setup-dev  ## Run the long reliability tests and write their table into docs/results.md (20 minutes)
	$(VENV)/python -m pytest -m chaos --timeout=2400 -p tests.chaos.table

screenshots: setup-dev  ## Take screenshots of each page, or of PAGE=compare alone, into docs/images (needs Chromium)
	$(VENV)/python -m scripts.screenshots $(PAGE)

docs: settings commands tree  ## Build the documentation as a site into results/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --strict
	@echo "open results/site/index.html"

settings: setup-dev  ## Write docs/settings.md from RunConfig
	$(VENV)/python -m scripts.settings_table

commands: setup-dev  ## Write docs/cli.md from the commands
	$(VENV)/python -m scripts.cli_reference

tree: setup-dev  ## Write the tree of files into docs/architecture.md
	$(VENV)/python -m scripts.file_tree

diagram: setup-dev  ## Write the state diagram of docs/architecture.md from TRANSITIONS
	$(VENV)/python -m scripts.state_diagram

base: setup-dev  ## Pretrain checkpoints/base/spelltune-tiny again (needs an NVIDIA GPU for minutes, a CPU for hours)
	$(VENV)/python -m scripts.install wordfreq==3.1.1
	$(VENV)/python -m scripts.pretrain_base lists
	$(VENV)/python -m scripts.pretrain_base train

clean:  ## Remove the virtual environment and caches; runs and checkpoints stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
