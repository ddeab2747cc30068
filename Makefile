# `make` lists the targets. `make check` is what CI runs.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PY := .venv/bin/python
EXCHANGE := .venv/bin/exchange
BIOME := .venv/bin/biome
INSTALLED := .venv/.installed
# Each package has to have the hash that the lock names. uv takes a tenth of the time, but does not
# know the registry that somebody wrote into a pip.conf: then pip does it all.
PIP := $(PY) -m pip install --disable-pip-version-check -q --no-deps
# Two workers, each with services of its own: much of a test is waiting for a process.
WORKERS := --numprocesses 2 --dist loadscope --no-loadscope-reorder

COMPILE := $(PY) -m uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11

# A variable that a target cannot do without. Make hands what was typed on in the environment: the
# shell puts the value in its place, and does not read it as a part of the command.
needed = $(if $(value $(1)),"$$$(1)",$(error Say $(1)=..., see make operators))
# One that the command itself reads from the environment.
said = $(if $(call needed,$(1)),)

# Why something was done is kept for ever, so as it was typed: a dollar in it is not make's.
ifdef REASON
override REASON := $(value REASON)
export REASON
endif

.DEFAULT_GOAL := help
.PHONY: help operators setup run stop load fixtures snapshot status rebuild rebuild-all verify-projection dry-run switch rollback pause \
	resume retry skip retire operations verify prove upgrade-check backup restore trim test test-long simulate mutants faults check fmt lint \
	types imports bench bench-all bench-growth bench-compare lock clean reset

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*[^#]## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

operators: ## list what operators do: status, rebuild, backup ...
	@awk -F ':.*### ' '/^[a-z-]+:.*### / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## install everything (the targets below do it too)
	@$(EXCHANGE) setup

run: $(INSTALLED) ## start the whole exchange; Ctrl-C stops it
	@$(EXCHANGE) run

stop: $(INSTALLED) ## end the exchange that runs in this directory
	@$(EXCHANGE) stop

load: $(INSTALLED) ## send orders to the running exchange and measure
	@$(EXCHANGE) load

fixtures: $(INSTALLED) ## write a reproducible file of orders
	@$(EXCHANGE) fixtures

snapshot: $(INSTALLED) ### take an engine snapshot of each shard
	@$(EXCHANGE) snapshot

status: $(INSTALLED) ### tell how far each part of the exchange is
	@$(EXCHANGE) status

rebuild: $(INSTALLED) ### rebuild a read model while it serves: PROJECTION=
	@$(EXCHANGE) rebuild $(call needed,PROJECTION)

rebuild-all: $(INSTALLED) ### rebuild every read model
	@$(EXCHANGE) rebuild-all

verify-projection: $(INSTALLED) ### compare a read model with the log: PROJECTION=
	@$(EXCHANGE) verify-projection $(call needed,PROJECTION)

dry-run: $(INSTALLED) ### count what this build would change: PROJECTION=
	@$(EXCHANGE) dry-run $(call needed,PROJECTION)

switch: $(INSTALLED) ### let queries read what is built: PROJECTION=
	@$(EXCHANGE) switch $(call needed,PROJECTION)

rollback: $(INSTALLED) ### let queries read the former one again: PROJECTION=
	@$(EXCHANGE) rollback $(call needed,PROJECTION)

pause: $(INSTALLED) ### stop keeping up a read model: PROJECTION=
	@$(EXCHANGE) pause $(call needed,PROJECTION)

resume: $(INSTALLED) ### go on with a paused read model: PROJECTION=
	@$(EXCHANGE) resume $(call needed,PROJECTION)

retry: $(INSTALLED) ### try a failed read model again: PROJECTION=
	@$(EXCHANGE) retry $(call needed,PROJECTION)

skip: $(INSTALLED) ### pass over an event: PROJECTION= POSITION=0:123 REASON=
	@$(EXCHANGE) skip $(call needed,PROJECTION) $(call needed,POSITION) $(call said,REASON)

retire: $(INSTALLED) ### give up the former generation: PROJECTION=
	@$(EXCHANGE) retire $(call needed,PROJECTION)

operations: $(INSTALLED) ### show who changed which read model, newest first
	@$(EXCHANGE) operations $(if $(PROJECTION),--projection "$$PROJECTION")

verify: $(INSTALLED) ### check the whole log against its hash chain and digests
	@$(EXCHANGE) verify

prove: $(INSTALLED) ### prove log, decisions and read models: AT=0:123
	@$(EXCHANGE) prove $(if $(AT),--at "$$AT")

upgrade-check: $(INSTALLED) ### would this build decide the log as it was?
	@$(EXCHANGE) prove --decisions

backup: $(INSTALLED) ### write a backup of the running exchange: TO=DIRECTORY
	@$(EXCHANGE) backup $(if $(TO),--to "$$TO")

restore: $(INSTALLED) ### put a backup into the empty database: FILE=
	@$(EXCHANGE) restore $(call needed,FILE) $(if $(REPLACE),--replace)

trim: $(INSTALLED) ### delete from Kafka what no backup needs: KEEP= FROM=
	@$(EXCHANGE) trim $(if $(FROM),--from "$$FROM") $(if $(KEEP),--keep "$$KEEP")

test: setup ## run the tests against their own Kafka, PostgreSQL and Valkey
	$(PY) -m pytest $(WORKERS) -m "not long"

test-long: setup ## run every test, those that take minutes too
	$(PY) -m pytest $(WORKERS)

faults: setup ## do faults to a whole exchange: MINUTES=2 SEED=1 FAULTS=...
	@$(PY) -m tests.faults $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults "$(FAULTS)")

simulate: $(INSTALLED) ## simulate faults: SEEDS=5000, or SEEDS=17-17 to live one again
	@$(PY) -m tests.simulation $(SEEDS)

mutants: setup ## plant bugs one by one and see that the tests catch them
	@$(PY) -m tests.mutants

check: lint types imports test ## everything that CI checks

fmt: $(INSTALLED) ## format and fix the code
	$(PY) -m ruff check --fix-only -q .
	$(PY) -m ruff format -q .
	$(BIOME) check --write exchange/pages

lint: $(INSTALLED) ## check format and style, change nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(BIOME) ci --colors=off exchange/pages

types: $(INSTALLED) ## check the types
	$(PY) -m mypy $(wildcard exchange projections tests bench)

imports: $(INSTALLED) ## check which part imports which
	.venv/bin/lint-imports

bench: setup ## measure how fast orders are taken, each beside its limit
	@$(PY) -m bench

bench-all: setup ## measure that and rebuilds, exports, replays ...
	@$(PY) -m bench --all

bench-growth: setup ## measure what a log that has grown costs
	@$(PY) -m bench.growth

bench-compare: setup ## say whether an order costs more than at BASE
	@$(PY) -m bench.compare $(or $(BASE),main)

lock: $(INSTALLED) ## pin the dependencies of pyproject.toml again
	$(COMPILE) --group pyproject.toml:dev --extra local --extra analysis pyproject.toml -o requirements.lock
	$(COMPILE) pyproject.toml -o image.lock
	$(COMPILE) --group pyproject.toml:build -o build.lock
	$(COMPILE) --group pyproject.toml:installer -o installer.lock

clean: ## delete the virtual environment and caches, keep the data
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .run/kafka-jars .run/promtool

reset: $(INSTALLED) ## delete the local data: the exchange starts empty
	@$(EXCHANGE) reset

$(INSTALLED): installer.lock requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m exchange.stack.host.prerequisites
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing the Python packages ..."
	@$(PIP) -r installer.lock
	@$(PY) -m uv pip install -q --require-hashes -r requirements.lock || $(PIP) -r requirements.lock
	@$(PIP) --no-index --no-build-isolation -e .
	@touch $@
