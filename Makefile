# make              set up, run the three notebooks top to bottom, export them as HTML, in build/; MNIST lands in MNIST_data/
# make test         set up and pass the tests
# make lab          open the notebooks in JupyterLab
# make refresh      run the three notebooks in place on the full MNIST and renew notebooks/*.html
# make pages        renew notebooks/*.html after a change of text, without running anything
# make lint         check the style of code and notebooks
# make constraints  renew constraints.txt: the newest versions of all packages that go with the requirements
# make clean        remove .venv, build/ and the caches of pytest and ruff (never your data, or a ConvDAE.keras outside of build/)
# make help         show these lines

BIN := .venv/bin

# A pip that is set to install for the user refuses to in .venv.
export PIP_USER := 0

# The pinned packages are for these Pythons alone; ensurepip, which venv needs, is a package of its own in Debian.
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# The first that fits, or else the last. Each is run: with pyenv there are names on the path under which nothing runs.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
    $$python -c '$(FITS)' 2> /dev/null && break; done; echo $$python)

# A .venv that was half made, or whose Python does not fit or has gone, is made anew.
SOUND := { $(BIN)/python -c '$(FITS)' && $(BIN)/python -m pip --version; } > /dev/null 2>&1
$(shell $(BIN)/python -c '$(FITS)' 2> /dev/null || rm -f .venv/installed)

run: .venv/installed
	$(BIN)/python tools/run_notebooks.py

# Two workers, each file on one of them. Not in pyproject.toml: "pytest --pdb" needs one process.
test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lab: .venv/installed
	$(BIN)/python -m jupyterlab

refresh: .venv/installed
	$(BIN)/python tools/run_notebooks.py --in-place

pages: .venv/installed
	$(BIN)/python tools/run_notebooks.py --pages

lint: .venv/installed-dev
	$(BIN)/ruff check .

# One version of each for all three Pythons and every system that TensorFlow has packages for. Not in .venv: old constraints can keep it from being made.
constraints:
	"$(PYTHON)" -m venv --clear build/uv
	build/uv/bin/python -m pip install --quiet uv==0.13.9
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --upgrade \
	    --annotation-style line --custom-compile-command 'make constraints' \
	    --output-file constraints.txt requirements.txt requirements-dev.txt

clean:
	rm -rf .venv build .pytest_cache .ruff_cache

help:
	@sed -n 's/^# make/make/p' Makefile

.venv/installed: requirements.txt constraints.txt
	@$(SOUND) || if "$(PYTHON)" -c '$(FITS)' 2> /dev/null; then "$(PYTHON)" -m venv --clear .venv; else \
	    echo '$(PYTHON) is not Python 3.11, 3.12 or 3.13 with venv, for which the packages are pinned:' \
	    'install one (or, where it is there, the python3-venv of Debian and Ubuntu), or name another: make PYTHON=/path/to/python3.13' >&2; exit 1; fi
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --constraint constraints.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	touch $@

.PHONY: run test lab refresh pages lint constraints clean help
