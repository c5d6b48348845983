# make serve [PORT=8080] [DIR=.]   make test   make load   make corpus [CORPUS=corpus]   make coverage   make clean

PORT ?= 8080
DIR ?= .
PYTHON ?= python3
BIN := .venv/bin

CORPUS ?= corpus

.PHONY: serve test load corpus coverage clean

serve: .venv/ready
	exec $(BIN)/python gserver.py $(PORT) "$(DIR)"

test: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest
	$(BIN)/python -m loadtest --short

load: .venv/ready
	$(BIN)/python -m loadtest

corpus: .venv/ready
	$(BIN)/python -m loadtest._corpus "$(CORPUS)"

coverage: .venv/ready
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage report

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
