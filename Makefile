# `make rollout` runs the shipped world, `make test` runs the tests; both first install what they need into .venv.
# `make rollout PYTHON=python3.12 VENV=/elsewhere` takes another interpreter (3.11 or newer) and another folder.
# Which build of PyTorch pip takes is up to the caller: see `PIP_EXTRA_INDEX_URL` in the README.
PYTHON ?= python3
VENV ?= .venv

.PHONY: rollout test

rollout: $(VENV)/installed-play
	$(VENV)/bin/worldsim rollout doom-take-cover --out clip.mp4

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

$(VENV)/installed-%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e ".[$*]"
	touch $@
