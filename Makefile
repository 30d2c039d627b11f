# The whole workflow. `make help` lists it; `make test` is what CI runs, on a fresh clone with nothing installed.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-print-directory

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LEAN   := $(VENV)/.installed-lean
EXTRAS := dev,docs,tensorboard,hdf5,zarr,minari,lerobot,diffusers,lora,play,serve,export,constrain,kitchen,sweep,ray,quant
JOBS   ?= 2

export OMP_NUM_THREADS := 1

# On a terminal pip shows what it downloads, elsewhere it is quiet.
PIP := $(if $(CI),-qq,$(shell [ -t 2 ] && echo --progress-bar on || echo -qq)) --disable-pip-version-check --no-compile

# $(call timed,NAME,COMMAND[,COMMAND]): runs one or two, the second also where the first has failed; says how long it took.
# `beside` runs two at once.
timed = @echo "--- $(1)"; TIMEFORMAT="--- $(1): %0R s"; time { bad=; $(2) || bad=1; $(if $(3),$(3) || bad=1;) [ -z "$$bad" ]; }
beside = $(call timed,$(1),{ $(2) & $(3) || bad=1; wait $$!; })

##@ The two commands
demo: $(LEAN)  ## Demonstrations, training, evaluation and report, from nothing, in minutes. FRESH=1 starts over
	@env -u OMP_NUM_THREADS $(BIN)/python -m kedge demo $(if $(filter-out 0,$(FRESH)),--fresh)
test: install  ## Everything CI runs, at its end the demo at small scale. Goes on after a failure, fails at the end
	@$(MAKE) --keep-going lint types layers docs mutants unit wheel

##@ Its parts
install: $(STAMP)  ## The virtual environment with all that the work needs; again when pyproject.toml or constraints.txt change
lint: install  ## Formatting and lint rules
	$(call timed,lint,$(BIN)/ruff check .,$(BIN)/ruff format --check .)
types: install  ## Types; strict on the kernel
	$(call timed,types,$(BIN)/pyright,$(BIN)/pyright -p pyright.kernel.json)
layers: install  ## Which room may import which
	$(call timed,layers,$(BIN)/lint-imports --no-logo)
unit: install  ## Unit tests, on JOBS cores
	$(call timed,unit,$(BIN)/pytest -n $(JOBS) --dist worksteal --ignore tests/test_demo.py)
wheel: install  ## The demo at small scale: from the built wheel, outside the source tree
	$(call timed,wheel,$(BIN)/pytest --durations=0 tests/test_demo.py)
docs: install  ## The documentation, warnings as errors, and its code blocks as tests
	$(call beside,docs,$(BIN)/sphinx-build -q --no-color -W --keep-going -b html docs docs/_build/html,$(BIN)/pytest -p no:cacheprovider --durations=3 --ignore docs/_drawn README.md docs)
mutants: install  ## The mutations whose files changed since `make mutate`, and a sample of the rest
	$(call timed,mutants,$(BIN)/python tools/mutate.py --changed --sample 5 --jobs $(JOBS))

##@ What takes longer
slow: install  ## The slow tests, with fresh random examples
	$(call timed,slow,HYPOTHESIS_PROFILE=explore $(BIN)/pytest -n $(JOBS) -m slow)
mutate: install  ## Every mutation; records those whose tests went red in tests/mutations.lock
	$(call timed,mutate,$(BIN)/python tools/mutate.py --jobs $(JOBS))
bench: install  ## The kernel's measurements; their results are kept in benchmarks/results
	$(call timed,bench,$(BIN)/python benchmarks/kernel.py)
bench-fv: install  ## The planner's, hours of them: a queue of jobs, JOBS at a time; killed, the same command goes on
	$(call timed,bench-fv,$(BIN)/python benchmarks/fv.py --jobs $(JOBS))
bench-serve: install  ## What a hundred clients get from a server, and how soon
	$(call timed,bench-serve,$(BIN)/python benchmarks/serve.py)
bench-align: install  ## What alignment does to planners: a queue as well
	$(call timed,bench-align,$(BIN)/python benchmarks/alignment.py --jobs $(JOBS))
bench-steer: install  ## What steering does to a trained planner, way by way; minutes, once it is trained
	$(call timed,bench-steer,$(BIN)/python benchmarks/steering.py)
bench-planners: install  ## Every planner in a maze that has changed since its logs were made: a queue as well
	$(call timed,bench-planners,$(BIN)/python benchmarks/planners.py --jobs $(JOBS))
bench-kitchen: install  ## Planners and cloning in the scripted kitchens: a queue as well
	$(call timed,bench-kitchen,$(BIN)/python benchmarks/kitchen.py --jobs $(JOBS))
bench-solvers: install  ## Solvers on grids: their errors, and what the nearest are worth in a maze
	$(call timed,bench-solvers,$(BIN)/python benchmarks/solvers.py --jobs $(JOBS))
bench-unseen: install  ## Who finds the way in mazes that nobody has seen in training: a queue as well
	$(call timed,bench-unseen,$(BIN)/python benchmarks/unseen.py --jobs $(JOBS))
bench-export: install  ## A trained planner in other runtimes: make bench-export RUN=runs/fv-large
	$(call timed,bench-export,$(BIN)/python benchmarks/export.py $(RUN))
bench-quantise: install  ## A trained planner in few bits: make bench-quantise RUN=runs/fv-large
	$(call timed,bench-quantise,$(BIN)/python benchmarks/quantise.py $(RUN))
drill: install  ## Kills, full disks and broken inputs by the thousand: an hour; the result is kept in benchmarks/results
	$(call timed,drill,$(BIN)/python tools/drill.py --jobs $(JOBS) --out benchmarks/results/drill.json)

##@ The rest
format: install  ## Formats the code and repairs what the linter can repair
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .
clean:  ## Removes what the tools have built, not the virtual environment
	@rm -rf build dist $(VENV).gone docs/_build docs/_drawn .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests tools docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
help:  ## This list
	@awk 'BEGIN {FS = ":[^#]*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo test install lint types layers unit wheel docs mutants slow mutate bench bench-fv bench-serve bench-align bench-export bench-quantise bench-steer bench-planners bench-kitchen bench-solvers drill format clean help bench-unseen

# The demo needs no tools of ours: its installation is the lean one. Where the full one is up to date it serves as well,
# and on top of a lean one the full one adds what is missing.
$(STAMP): pyproject.toml constraints.txt
	@$(call installed,.[$(EXTRAS)])
	@touch $(LEAN) $@
$(LEAN): pyproject.toml constraints.txt
	@if [ $(STAMP) -nt pyproject.toml ] && [ $(STAMP) -nt constraints.txt ]; then touch $@; exit; fi; $(call installed,.)
	@touch $@

# `.installing` is there while anything is made or installed: found at the start, it tells of an install that was killed,
# and what that left cannot be trusted. (It is moved away in one stroke, for removing it may be interrupted as well.) A
# failure that pip reports has been rolled back, and is tried again on top of what is there; not so an interrupted pip,
# which is why the shell leaves first.
define installed
	trap 'exit 130' INT TERM; python=""; \
	for name in $${PYTHON:-python3.11 python3 python3.12 python3.13}; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$name"; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "make: no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	rm -rf $(VENV).gone; \
	if [ -e $(VENV)/.installing ]; then echo "--- install: the last one was interrupted, starting over"; mv $(VENV) $(VENV).gone; fi; \
	echo "--- install"; TIMEFORMAT="--- install: %0R s"; time { \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if [ -e $(VENV) ]; then mv $(VENV) $(VENV).gone; fi; \
	  mkdir $(VENV); touch $(VENV)/.installing; "$$python" -m venv $(VENV); \
	fi; \
	touch $(VENV)/.installing; \
	$(BIN)/python -m pip install $(PIP) --editable "$(1)" --constraint constraints.txt \
	  || { rm -f $(VENV)/.installing; echo "make: pip failed; its message above says why" >&2; exit 1; }; \
	rm -f $(VENV)/.installing; rm -rf $(VENV).gone; }
endef
