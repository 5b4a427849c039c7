# Every target sets up .venv by itself; Python 3.11 or newer is all that must be there.
PYTHON ?= python3
OUT ?= out
PROFILE ?= ci
# About how long `make gpu` may take, and the Python whose torch finds the GPU.
GPU_MINUTES ?= 6
GPU_PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,$(PYTHON))
# How long `make faults` kills, fills, races and fuzzes.
MINUTES ?= 20
# What fits into ten minutes; all others run by name.
RECIPES ?= $(addprefix recipes/journey-dlrm-,$(addsuffix .yaml,fp32 distilled int8-dynamic \
  int8-static prune-distill-int8 shared-distilled-int8-native tensorrt-fp16))
BIN := .venv/bin
STAMP := .venv/.installed
# The other toolkits have an environment of their own; only `make peers` needs it, and a C++ compiler.
PEERS_OUT ?= build/peers
PEERS_BIN := .venv-peers/bin
PEERS_STAMP := .venv-peers/.installed

.PHONY: run test check bench faults gpu report reproduce peers clean

run: $(STAMP)
	$(BIN)/python -m harness run $(RECIPES) --out $(OUT) --profile $(PROFILE)

test: $(STAMP)
	$(BIN)/python -m pytest tests --ignore=tests/bench -n auto --dist loadfile --no-loadscope-reorder --durations=10

check: $(STAMP)
	$(BIN)/ruff format --check harness tests
	$(BIN)/ruff check harness tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py

bench: $(STAMP)
	mkdir -p build
	$(BIN)/python -m pytest tests/bench -q -s --benchmark-quiet --benchmark-json=build/bench.json

faults: $(STAMP)
	PYTHONPATH=tests $(BIN)/python tests/faults/box.py --minutes $(MINUTES)

# Installs nothing: on a machine with a GPU torch is there already, and often no network.
gpu:
	$(GPU_PYTHON) tests/gpu/drive.py --out build/gpu --minutes $(GPU_MINUTES)

reproduce: $(STAMP)
	$(BIN)/python -m harness reproduce baselines/published/figures.yaml --out results/published

peers: $(PEERS_STAMP)
	$(PEERS_BIN)/python -m harness peers baselines/peers.yaml --out $(PEERS_OUT) $(PEERS_OPTIONS)

report: $(STAMP)
	$(BIN)/python -m harness report $(OUT)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[ort,openvino,faiss,data,loadgen,dev]"
	touch $(STAMP)

$(PEERS_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS_BIN)/pip install --quiet -c constraints.txt torch
	$(PEERS_BIN)/pip install --quiet -c constraints.txt -e ".[ort,openvino,data,peers]"
	touch $(PEERS_STAMP)

clean:
	rm -rf .venv .venv-peers build out *.egg-info
