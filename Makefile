# Two commands: `make run` and `make test`. Both set up what is missing first; see scripts/setup.sh.
.PHONY: help run cluster test lint sim properties differential chaos kills clients deploy interop load bench bench-rooms wheel proto tools mutations lower-bounds pythons setup clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## system packages, .venv, dependencies, native modules
	@scripts/setup.sh

run: setup ## a server with its data in ./data; further flags: make run ARGS="--port=6000"
	@exec .venv/bin/python scripts/run.py $(ARGS)

cluster: setup ## three members on this machine, data in ./data/cluster; Ctrl-C stops all; make cluster ARGS="--members 5"
	@exec .venv/bin/python scripts/cluster.py $(ARGS)

test: setup ## every check and test; further options for pytest: make test ARGS="-k wheel"
	@scripts/test.sh $(ARGS)

lint: setup ## ruff, mypy, cython-lint, the house rules
	@scripts/lint.sh

tools: setup ## the real etcd 3.7, its tools and the load generators (needs Go)
	@.venv/bin/python scripts/tools.py build
	@.venv/bin/python scripts/tools.py

sim: setup ## whole members in virtual time, fresh seeds: make sim SECONDS=600
	@.venv/bin/python -m raftsched.testing.sim --seconds $(or $(SECONDS),60) $(ARGS)

properties: setup ## the properties and the fuzzers with fresh examples; make properties ARGS="--hypothesis-seed=1 -k engine"
	@RAFTSCHED_SEEDS=fresh .venv/bin/python -m pytest -q -n 2 --dist loadfile tests/property tests/fuzz $(ARGS)

differential: tools ## a longer comparison with a real etcd; make differential OPERATIONS=5000000 SEED=7
	@RAFTSCHED_DIFFERENTIAL_PROCESS=1 RAFTSCHED_DIFFERENTIAL_OPERATIONS=$(or $(OPERATIONS),1000000) RAFTSCHED_DIFFERENTIAL_SEED=$(or $(SEED),100) .venv/bin/python -m pytest -q --timeout=0 tests/interop/test_differential.py tests/interop/test_auth_differential.py $(ARGS)

chaos: setup ## kills, partitions and pauses of three members under the load of both APIs, then every checker; make chaos SECONDS=60
	@.venv/bin/python -m raftsched.testing.chaos --manager=scripts/cluster.py --seconds=$(or $(SECONDS),600) $(ARGS)

kills: setup ## kill -9 of the leader a hundred times and of all members twenty times under load, then every checker
	@.venv/bin/python -m raftsched.testing.chaos --leader-kills=100 --all-kills=20 --json=build/kills.json $(ARGS)

clients: setup ## clients and tools of others against us: Kubernetes' storage tests, the Dapr Scheduler, Python, Node, Java, Patroni, Go, etcdctl with its checks (needs Go, npm, Maven)
	@.venv/bin/python scripts/tools.py build
	@.venv/bin/python scripts/tools.py build kubernetes dapr-scheduler dapr-sentry
	@RAFTSCHED_CLIENTS=all .venv/bin/python -m pytest -q -rs tests/interop/test_kubernetes_storage.py tests/interop/test_real_dapr_*.py tests/interop/test_real_sentry.py tests/interop/test_foreign_clients.py tests/interop/test_go_clients.py tests/interop/test_etcdctl_commands.py $(ARGS)

deploy: setup ## all checks of deploy/ with helm and promtool, which are built first: minutes, once (needs Go)
	@.venv/bin/python scripts/tools.py build dockercheck helm kubestrict promtool
	@.venv/bin/python -m pytest -q -rs tests/deploy $(ARGS)

interop: setup ## real Dapr sidecars and SDKs against one replica and three, with and without mTLS; builds daprd, placement and sentry (needs Go)
	@.venv/bin/python scripts/tools.py build daprd dapr-placement dapr-sentry daprsdk
	@.venv/bin/python scripts/dapr_sdk.py
	@RAFTSCHED_SIDECARS=all .venv/bin/python -m pytest -q -rs tests/interop/test_sidecars.py tests/interop/test_sidecar_sdks.py tests/interop/test_sidecar_changes.py tests/interop/test_real_sentry.py $(ARGS)

load: tools ## the loads of tests/process/test_load.py at full size, with their figures: ten minutes of a machine that does nothing else
	@RAFTSCHED_LOAD=full .venv/bin/python -m pytest -q -s tests/process/test_load.py $(ARGS)

mutations: setup ## known faults put into copies of the Raft kernel: the simulation must find each; make mutations ARGS="ack vote"
	@.venv/bin/python scripts/mutate_kernel.py $(ARGS)

bench: tools ## every target of docs/performance.md beside a real etcd; make bench ARGS="--only store --quick"
	@.venv/bin/python -m bench.load.report $(ARGS)

bench-rooms: setup ## the pytest-benchmark suites of the single rooms; figures also in build/bench/rooms.json
	@mkdir -p build/bench
	@.venv/bin/python -m pytest -q bench --benchmark-enable --benchmark-json=build/bench/rooms.json $(ARGS)

proto: setup ## regenerate src/raftsched/pb from proto/
	@.venv/bin/python scripts/generate_proto.py

wheel: setup ## a wheel with its libraries inside and an sdist, both tried in clean environments
	@.venv/bin/python scripts/wheel.py

lower-bounds: setup ## the unit tests on the oldest dependencies that pyproject.toml allows
	@.venv/bin/python scripts/lower_bounds.py

pythons: setup ## unit and property tests on every supported Python that is to be found here
	@.venv/bin/python scripts/pythons.py $(ARGS)

clean: ## what was built; .venv, .cache and ./data stay
	@rm -rf build dist wheelhouse .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src \( -name '*.so' -o -name '*.c' -not -path '*/native/*' \) -delete
