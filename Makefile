# make setup    set up the environment; the targets below except lock do so first if needed
# make train    train and evaluate Mask R-CNN with ACmix on generated images, and draw its predictions
# make test     run all tests except slow ones
# make test-all run all tests
# make matrix   run the tests with other versions of the libraries, in build/matrix
# make notebook run the tutorial, in under three minutes
# make gpu-check check on a GPU that everything works and how fast, in under ten minutes; see build/gpu-check.json
# make docs     build the documentation in build/site
# make lint     check style and formatting
# make lock     update the locked versions to match the requirements; with UPGRADE=1, upgrade all that are not pinned
#
# LANE=onedl uses the maintained forks of the OpenMMLab packages, in a separate environment.
# PYTHON=/path/to/python3 sets the interpreter; its torch and mmcv are used if it has them.
# MMCV=compiled compiles mmcv's operators; by default, that is done beside a CPU build of torch only.

LANE ?= openmmlab
VENV := $(if $(filter openmmlab,$(LANE)),.venv,.venv-$(LANE))
BIN := $(CURDIR)/$(VENV)/bin
RUN := export PATH="$(BIN):$$PATH"
CONFIG := configs/shapes/mask-rcnn_acmix-r26_shapes.py
SHAPES := data/shapes
WORK_DIR ?= work_dirs/shapes
.PHONY: setup train test test-all matrix notebook gpu-check docs lint lock

setup:
	@command -v $(or $(PYTHON),python3) > /dev/null || { echo "set-up: mmacmix needs Python 3.10 to 3.13, but $(or $(PYTHON),python3) was not found: install it, or name another with PYTHON=/path/to/python3." >&2; exit 1; }
	@$(or $(PYTHON),python3) requirements/install.py --lane $(LANE) $(if $(PYTHON),--python $(PYTHON)) $(if $(MMCV),--mmcv $(MMCV))

$(SHAPES)/annotations/instances_val.json: | setup
	@$(RUN); python tools/make_shapes.py $(SHAPES)

# On a CPU, two processes with one thread each train this small network faster than one process with two threads. A GPU
# is used by one process. The total batch is 4 images in both cases.
train: setup $(SHAPES)/annotations/instances_val.json
	@$(RUN); if python requirements/device.py; then \
	    tools/train.py $(CONFIG) --work-dir $(WORK_DIR); \
	else \
	    tools/dist_train.sh $(CONFIG) 2 --work-dir $(WORK_DIR) --cfg-options train_dataloader.batch_size=2; \
	fi
	@echo "Training done. Open $(WORK_DIR)/report.html; the results are in $(WORK_DIR)/results.md and $(WORK_DIR)/gallery.png."

PYTEST := OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: setup
	@$(RUN); $(PYTEST) -m 'not slow'

# Speed tests run separately, as parallel tests would distort the times.
test-all: setup
	@$(RUN); python -m pytest tests/test_speed.py; speed=$$?; \
	    $(PYTEST) --ignore=tests/test_speed.py && exit $$speed

matrix: setup
	@$(RUN); python tests/matrix.py

notebook: setup
	@mkdir -p build
	@$(RUN); timeout 180 jupyter execute demo/mmacmix_tutorial.ipynb '--output=$(CURDIR)/build/mmacmix_tutorial.ipynb' \
	    || { test $$? = 124 && echo 'The tutorial took more than three minutes.'; exit 1; } >&2

gpu-check: setup
	@$(RUN); tools/gpu_check.py --json build/gpu-check.json

docs: setup
	@$(RUN); NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

lint: setup
	@$(RUN); ruff check .
	@$(RUN); ruff format --check .

# uv has a separate environment, since the main one cannot be set up while requirements contradict the lock.
lock:
	@$(or $(PYTHON),python3) -m venv build/uv
	@build/uv/bin/pip install --quiet uv==0.13.9
	@for lane in openmmlab onedl; do \
	    build/uv/bin/uv pip compile --quiet --project requirements --universal --python-version 3.10 \
	        --custom-compile-command 'make lock' --annotation-style line $(if $(UPGRADE),--upgrade) \
	        --output-file requirements/lock-$$lane.txt \
	        requirements/build.txt requirements/torch.txt requirements/torchvision.txt requirements/triton.txt \
	        requirements/timm.txt requirements/dev.txt requirements/$$lane.txt || exit 1; \
	done
