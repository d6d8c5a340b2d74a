# Every target has a sentence; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help install browser demo test check format lint types imports engine tests fuzz differential differential-nodes test-citus test-pgbouncer test-upgrade frameworks install-frameworks mcp-conformance bench bench-postgres bench-citus bench-metrics pictures soak build clean

UV = $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN = $(UV) run --frozen --all-extras

# What runs on PostgreSQL too, beside the tests of stores and of several servers, which always do.
ON_POSTGRES = tests/api/test_workflows.py tests/api/test_visibility.py tests/api/test_task_queues.py \
	tests/api/test_standalone_activities.py tests/api/test_schedules.py tests/api/test_batches.py \
	tests/api/test_namespace_deletion.py tests/store/test_retention.py tests/crash/test_kill.py

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 20

install: ## Install everything into .venv: fetches uv if there is none, then the locked packages.
	@command -v uv >/dev/null 2>&1 || test -x .uv/bin/uv || python3 scripts/bootstrap.py
	@$(UV) sync --frozen --all-extras --quiet

browser: ## Install Debian's Chromium for the tests of the console, where apt-get and root are there.
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else echo "There is no Chromium: install it, or the tests of the console fail."; fi

demo: install ## Run the research agent, which survives the kill of its worker and of its server.
	@$(RUN) durably demo

test: check ## Run every check and every test: what CI runs.

check: install lint types imports tests ## Format, lint, types, import contracts and all tests.

format: install ## Format the code.
	$(RUN) ruff format src tests bench examples scripts
	$(RUN) ruff check --fix src tests bench examples scripts

lint: install ## Check format and style.
	$(RUN) ruff format --check src tests bench examples scripts
	$(RUN) ruff check src tests bench examples scripts

types: install ## Check types, strictly.
	$(RUN) mypy

imports: install ## Check that layers import only what is below them, and that the engine is pure.
	$(RUN) lint-imports

engine: install ## Test the engine alone: tests/engine takes every branch of it, without chance.
	@mkdir -p .coverage
	$(RUN) coverage run -m pytest -m "not hypothesis" tests/engine
	$(RUN) coverage report

tests: engine browser ## Run the tests alone, fast ones in parallel first.
	$(RUN) pytest -n 2 --dist loadfile -m "not model and not peer and not frameworks and not citus and not pgbouncer and not upgrade" tests
	$(RUN) pytest -n 2 --dist loadfile --store=postgres $(ON_POSTGRES)

fuzz: install ## Search for lives and crashes that break a rule, with other seeds than the tests, for long.
	$(RUN) pytest -n 2 -m hypothesis --hypothesis-profile=explore --timeout=7200 tests/engine
	SEEDS=$${SEEDS:-1000-2999} $(RUN) pytest -n 2 --timeout=7200 tests/simulation

differential: install ## Compare what durably does with what Temporal's dev server does, program by program.
	$(RUN) pytest -m peer tests/differential

differential-nodes: install ## The same through three servers on one PostgreSQL, each call to the next of them.
	$(RUN) pytest -m peer --store=postgres tests/differential

frameworks: install-frameworks ## Run each agent framework through a worker that is killed: what CI does not run.
	$(RUN) pytest -m frameworks tests/frameworks

install-frameworks: install ## Install the agent frameworks of examples/frameworks, each into .frameworks/NAME.
	@for name in pydantic-ai openai-agents langgraph google-adk strands deepagents; do \
	  UV_PROJECT_ENVIRONMENT=$(CURDIR)/.frameworks/$$name \
	  $(UV) sync --project examples/frameworks --frozen --only-group $$name --quiet || exit 1; \
	done

test-citus: install ## Run the suites of PostgreSQL on Citus: a coordinator and two workers; needs Citus.
	$(RUN) pytest -m citus --timeout=600 tests/citus
	$(RUN) pytest --store=citus --shards=8 --timeout=600 -k "not file and not memory" tests/store/test_store.py
	$(RUN) pytest --store=citus --shards=8 --timeout=600 tests/store/test_postgres.py tests/store/test_differential.py \
	  tests/nodes tests/cli/test_postgres.py tests/crash/test_kill_nodes.py -m "not pgbouncer and not upgrade"
	$(RUN) pytest -n 2 --dist loadfile --store=citus --shards=8 --timeout=600 $(ON_POSTGRES)

test-pgbouncer: install ## Test servers behind PgBouncer, Debian's where there is none, apt-get and root are there.
	@test -x /usr/sbin/pgbouncer || command -v pgbouncer >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y pgbouncer >/dev/null; \
	else echo "There is no PgBouncer: install it."; exit 1; fi
	$(RUN) pytest -m pgbouncer tests/nodes/test_pgbouncer.py

test-upgrade: install ## Replace servers of an earlier revision (UPGRADE_FROM) by this one's under load, and roll back.
	$(RUN) pytest -m upgrade tests/nodes/test_upgrade.py

mcp-conformance: install ## Run the published conformance suite of MCP; needs npm.
	$(RUN) python scripts/mcp_conformance.py

bench: install ## Run the benchmarks against Temporal's dev server and write bench/RESULTS.md.
	$(RUN) python -m bench --write

bench-postgres: install ## Measure durably, DBOS and several servers on PostgreSQL; write bench/RESULTS-POSTGRES.md.
	$(RUN) --group bench python -m bench.postgres --scale $${SCALE:-1} --write

bench-citus: install ## Measure the same load on one PostgreSQL and on Citus; write bench/RESULTS-CITUS.md; needs Citus.
	$(RUN) python -m bench.citus --scale $${SCALE:-1} --write

soak: install ## Let tables on PostgreSQL fill and be emptied for SOAK_SECONDS (600), and watch their sizes.
	SOAK_SECONDS=$${SOAK_SECONDS:-600} $(RUN) pytest --timeout=7200 -s tests/store/test_bloat.py

bench-metrics: install ## Measure what metrics cost: CPU per action with them, of that without, in turns.
	$(RUN) python -m bench.metrics

pictures: install browser ## Make the pictures of the console in docs/images, from real runs.
	$(RUN) --with pillow python scripts/screenshots.py

build: install ## Build the wheel into dist/.
	$(UV) build --wheel

clean: ## Remove what the other targets made.
	rm -rf .conformance .frameworks .venv .uv dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
