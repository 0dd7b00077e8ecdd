# make train    set up if needed; train, evaluate and draw Mask R-CNN with ACmix on generated images
# make test     set up if needed; run the tests
# make lint     set up if needed; check style and formatting
# make setup    set up only
#
# LANE=onedl uses the maintained forks of the OpenMMLab packages, in an environment of their own.
# PYTHON=/path/to/python3 builds on that interpreter and uses the torch it has.

LANE ?= openmmlab
VENV := $(if $(filter openmmlab,$(LANE)),.venv,.venv-$(LANE))
BIN := $(CURDIR)/$(VENV)/bin
RUN := PATH="$(BIN):$$PATH"
SHAPES := data/shapes
WORK_DIR ?= work_dirs/shapes
# Many small operations gain more from two processes of one thread than from one of two.
PROCESSES ?= 2

.PHONY: setup train test lint

setup:
	@command -v $(or $(PYTHON),python3) > /dev/null || { echo "set-up: mmacmix needs Python 3.10, 3.11 or 3.12, and there is no $(or $(PYTHON),python3) on the PATH." >&2; exit 1; }
	@$(or $(PYTHON),python3) requirements/install.py --lane $(LANE) $(if $(PYTHON),--python $(PYTHON))

$(SHAPES)/annotations/instances_val.json: | setup
	$(RUN) python tools/make_shapes.py $(SHAPES)

train: setup $(SHAPES)/annotations/instances_val.json
	$(RUN) tools/dist_train.sh configs/shapes/mask-rcnn_acmix-r26_shapes.py $(PROCESSES) --work-dir $(WORK_DIR)

test: setup
	$(RUN) python -m pytest

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
