# Mijra's workshop. `make help` lists what there is; everything happens inside .venv, nothing is installed elsewhere
# (the one exception: on Debian without python3-venv, and as root, that package is fetched with apt-get).

.DEFAULT_GOAL := help
.PHONY: help install test lint format demo simulate simulate-mutants bench bench-check node-peers clean

PY := .venv/bin/python
# Written at the end of a complete installation; older than pyproject.toml means that one is due.
INSTALLED := .venv/.installed
BENCH_INSTALLED := .venv/.installed-bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## make .venv and install Mijra with its test and lint tools into it

$(INSTALLED): pyproject.toml
	@./.ci/venv test,lint $@

$(BENCH_INSTALLED): pyproject.toml $(INSTALLED)
	@./.ci/venv bench $@

test: install lint ## lint, then the whole test suite (ARGS="-k name" narrows it)
	$(PY) -m pytest $(ARGS)

lint: install ## ruff, mypy in strict mode, import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

format: install ## let ruff lay out and repair what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

demo: install ## a server, a simulator of each platform and customers that talk; SECONDS=n ends it after n seconds
	.venv/bin/mijra demo $(if $(SECONDS),--seconds $(SECONDS))

simulate: install ## the whole engine over simulated days with faults; SEEDS=n days (1000), FIRST=n the first one
	$(PY) -m tests.simulation --seeds $(or $(FIRST),0)-$$(($(or $(FIRST),0) + $(or $(SEEDS),1000) - 1))

simulate-mutants: install ## plant bugs into a copy and look which simulated day finds each; NAMES="a b", SEEDS=n
	$(PY) -m tests.simulation.mutants $(NAMES) --seeds $(or $(SEEDS),100)

node-peers:
	@if command -v npm >/dev/null; then cd bench/peers/fanout/node && npm install --silent --no-audit --no-fund --no-package-lock; \
	else echo "There is no npm here; the peers for Node will be missing"; fi

bench: $(BENCH_INSTALLED) node-peers ## every bench, quickly, into bench/RESULTS.md; NAME=mailbox ARGS=--quick runs one alone
	$(PY) -m bench.$(or $(NAME),all --quick) $(ARGS)

bench-check: $(BENCH_INSTALLED) ## compare the benches' ratios to their peers with the recorded ones (ARGS=--record writes them)
	$(PY) -m bench.check $(ARGS)

clean: ## remove .venv and the caches; data/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
