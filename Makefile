# make serve [PORT=8080] [DIR=.]   make test   make load   make corpus [CORPUS=corpus]   make coverage   make clean
# make bench [TRACE=requests.csv.gz]: gserver beside other file servers; takes an hour, and wants the machine for itself

PORT ?= 8080
DIR ?= .
PYTHON ?= python3
BIN := .venv/bin

CORPUS ?= corpus
TRACE ?= $(wildcard ../shared/traces/semicomplete_2015.csv.gz)

.PHONY: serve test load corpus coverage bench clean

serve: .venv/ready
	exec $(BIN)/python gserver.py $(PORT) "$(DIR)"

test: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m loadtest --short

load: .venv/ready
	$(BIN)/python -m loadtest

corpus: .venv/ready
	$(BIN)/python -m loadtest._corpus "$(CORPUS)"

coverage: .venv/ready
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage report

bench: .venv/ready .bench-venv/ready
	$(BIN)/python -m benchmarks.http
	$(BIN)/python -m benchmarks.slowdisk
	$(BIN)/python -m benchmarks.footprint
	$(BIN)/python -m benchmarks.samememory $(if $(TRACE),--trace "$(TRACE)")
	$(BIN)/python -m benchmarks.policies
	$(BIN)/python -m benchmarks.dashboard
	$(BIN)/python -m benchmarks.attackers
	$(BIN)/python -m benchmarks.downloads
	$(BIN)/python -m benchmarks.hotpath
	$(BIN)/python -m benchmarks.cluster

clean:
	rm -rf build dist .schemathesis .venv .bench-venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

.venv/ready: requirements.txt requirements-s3.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# Without them, as without a network, the benchmarks say who is missing.
.bench-venv/ready: benchmarks/requirements.txt
	$(PYTHON) -m venv .bench-venv
	-.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt \
		&& touch $@
