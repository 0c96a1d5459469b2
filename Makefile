# make          set up, run the three notebooks top to bottom, export them as HTML: everything lands in build/
# make test     set up and pass the tests
# make lab      open the notebooks in JupyterLab
# make refresh  run the three notebooks in place on the full MNIST and renew notebooks/*.html
# make pages    renew notebooks/*.html after a change of text, without running anything
# make lint     check the style of code and notebooks
# make clean    remove what the other targets made (never your data)

PYTHON ?= python3
BIN := .venv/bin

run: .venv/installed
	$(BIN)/python tools/run_notebooks.py

test: .venv/installed-dev
	$(BIN)/python -m pytest

lab: .venv/installed
	$(BIN)/jupyter lab

refresh: .venv/installed
	$(BIN)/python tools/run_notebooks.py --in-place

pages: .venv/installed
	$(BIN)/python tools/run_notebooks.py --pages

lint: .venv/installed-dev
	$(BIN)/ruff check .

clean:
	rm -rf .venv build .pytest_cache .ruff_cache ConvDAE.keras

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

.PHONY: run test lab refresh pages lint clean
