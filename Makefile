# make help says what there is. Everything it makes stays in .venv, .cache and output.
PYTHON ?= python3
ifeq ($(strip $(COMFYUI_PATH)),)
COMFYUI_PATH := $(CURDIR)/.cache/comfyui
endif

export COMFYUI_PATH
export OMP_NUM_THREADS ?= 2
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export XDG_CACHE_HOME := $(CURDIR)/.cache/xdg
export PYTEST_DEBUG_TEMPROOT := $(CURDIR)/.cache/pytest
# Neither tests nor demo may reach a model hub.
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint bench clean

help:
	@echo "make setup   environment in .venv, ComfyUI's source in .cache"
	@echo "make test    set up, then run all tests (TESTS=... for some of them)"
	@echo "make demo    set up, then generate from real input in a real ComfyUI; results in output/"
	@echo "make lint    check the code's style"
	@echo "make bench   speed and memory figures of this machine"
	@echo "make clean   remove what the other targets made, except output/"

setup:
	@$(PYTHON) tools/bootstrap.py

# What some tests need may be missing. The reason, if any, goes to them and is said once more at the end, where it is seen.
test: setup
	@mkdir -p $(PYTEST_DEBUG_TEMPROOT)
	@browser="$$($(PYTHON) tools/bootstrap.py browser)" && deepspeed="$$($(PYTHON) tools/bootstrap.py deepspeed)" && \
	ray="$$($(PYTHON) tools/bootstrap.py ray)" && \
	VINO_SKIP_BROWSER="$$browser" VINO_SKIP_DEEPSPEED="$$deepspeed" VINO_SKIP_RAY="$$ray" .venv/bin/pytest $(TESTS); code=$$?; \
	if [ -n "$$browser" ]; then echo "The browser tests were skipped: $$browser" >&2; fi; \
	if [ -n "$$deepspeed" ]; then echo "The DeepSpeed tests were skipped: $$deepspeed" >&2; fi; \
	if [ -n "$$ray" ]; then echo "The test on a Ray cluster was skipped: $$ray" >&2; fi; \
	exit $$code

demo: setup
	@.venv/bin/python tools/demo.py

lint: setup
	@.venv/bin/ruff check .

# The conversion is measured apart: it writes tens of gigabytes into a folder that its user names.
bench: setup
	@for script in $(filter-out benchmarks/convert_memory.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; .venv/bin/python "$$script" || exit 1; done

clean:
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './output/*' -prune -exec rm -rf {} +
