# make train    set up if needed; train, evaluate and draw Mask R-CNN with ACmix on generated images
# make test     set up if needed; run the tests, but for slow ones
# make test-all set up if needed; run all tests
# make notebook set up if needed; run the tutorial, in under three minutes
# make docs     set up if needed; build the documentation into build/site
# make lint     set up if needed; check style and formatting
# make setup    set up only
# make lock     fit the locked versions to the requirements; make lock UPGRADE=1 takes the newest of all that are free
#
# LANE=onedl uses the maintained forks of the OpenMMLab packages, in an environment of their own.
# PYTHON=/path/to/python3 builds on that interpreter and uses the torch it has.

LANE ?= openmmlab
VENV := $(if $(filter openmmlab,$(LANE)),.venv,.venv-$(LANE))
BIN := $(CURDIR)/$(VENV)/bin
RUN := export PATH="$(BIN):$$PATH"
CONFIG := configs/shapes/mask-rcnn_acmix-r26_shapes.py
SHAPES := data/shapes
WORK_DIR ?= work_dirs/shapes
.PHONY: setup train test test-all notebook docs lint lock

setup:
	@command -v $(or $(PYTHON),python3) > /dev/null || { echo "set-up: mmacmix needs Python 3.10, 3.11 or 3.12, and there is no $(or $(PYTHON),python3) on the PATH." >&2; exit 1; }
	@$(or $(PYTHON),python3) requirements/install.py --lane $(LANE) $(if $(PYTHON),--python $(PYTHON))

$(SHAPES)/annotations/instances_val.json: | setup
	@$(RUN); python tools/make_shapes.py $(SHAPES)

# On a CPU, two processes of one thread train such a small network faster than one process of two threads. A GPU takes
# one process. The batch is 4 images in both cases.
train: setup $(SHAPES)/annotations/instances_val.json
	@$(RUN); if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	    tools/train.py $(CONFIG) --work-dir $(WORK_DIR); \
	else \
	    tools/dist_train.sh $(CONFIG) 2 --work-dir $(WORK_DIR) --cfg-options train_dataloader.batch_size=2; \
	fi
	@echo "Trained: open $(WORK_DIR)/report.html; $(WORK_DIR)/results.md holds the results, $(WORK_DIR)/gallery.png shows them."

PYTEST := OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: setup
	@$(RUN); $(PYTEST) -m 'not slow'

# Speed alone: the times would hold what other tests do beside it.
test-all: setup
	@$(RUN); python -m pytest tests/test_speed.py; speed=$$?; \
	    $(PYTEST) --ignore=tests/test_speed.py && exit $$speed

notebook: setup
	@mkdir -p build
	@$(RUN); timeout 180 jupyter execute demo/mmacmix_tutorial.ipynb --output=$(CURDIR)/build/mmacmix_tutorial.ipynb \
	    || { test $$? = 124 && echo 'The tutorial takes more than three minutes.'; exit 1; } >&2

docs: setup
	@$(RUN); NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

lint: setup
	@$(RUN); ruff check .
	@$(RUN); ruff format --check .

# In an environment of its own, as requirements that contradict the locks can't be set up.
lock:
	@$(or $(PYTHON),python3) -m venv build/uv
	@build/uv/bin/pip install --quiet uv==0.13.9
	@for lane in openmmlab onedl; do \
	    build/uv/bin/uv pip compile --quiet --project requirements --universal --python-version 3.10 \
	        --custom-compile-command 'make lock' --annotation-style line $(if $(UPGRADE),--upgrade) \
	        --output-file requirements/lock-$$lane.txt \
	        requirements/build.txt requirements/torch.txt requirements/torchvision.txt requirements/triton.txt \
	        requirements/dev.txt requirements/$$lane.txt || exit 1; \
	done
