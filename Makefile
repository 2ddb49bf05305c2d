# `make verify` and `make test` each work as the first command on a fresh clone.
PYTHON ?= python3
OUT ?= results
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Containers often forbid bytecode. Tests start many processes, and each would compile all of JAX and SciPy again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: verify test lint types paper lock clean

verify: $(READY)
	$(BIN)/unmagic verify --out $(OUT)

test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

paper: $(READY)
	$(BIN)/unmagic paper

lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		--extra reference --extra cluster --group dev pyproject.toml -o requirements.lock

# Everything is pinned and hashed, so pip has nothing to resolve. Python compiles what is used when it is first used.
# The package itself is installed in place.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
		--require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) results paper/generated paper/build build *.egg-info .pytest_cache .ruff_cache
