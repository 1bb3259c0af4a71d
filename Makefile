# Two commands set up everything on a machine with Python 3.10 to 3.13 and no ROS:
#   make demo     plays a conversation through the real nodes; results in out/demo
#   make test     linters and all tests but the heavy ones
#
#   make view     the head in a browser, live; make view BAG=out/demo/bag shows a recording
#   make talk     type a sentence and see the head say it
#   make demo SELF=a.wav PARTNER=b.wav OUT=out/mine     a recording of your own; ROBOT=tiago: another robot's neck
#   make bench    times the policy, the engine and the running graph; out/bench.json
#   make test-heavy | lint | format | clean

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
OUT ?= out/demo
# Where torch is looked for first. Without an NVIDIA GPU its CPU build does: PyPI's brings gigabytes of CUDA.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)

# The environment brings its own ROS as wheels. A sourced ROS installation would reach into it through
# these variables, and two ROS versions in one process end in crashes: it is shut out.
ros_prefixes := /opt/ros $(subst :, ,$(AMENT_PREFIX_PATH) $(COLCON_PREFIX_PATH))
no_ros = $(filter-out $(addsuffix /%,$(ros_prefixes)),$(subst :, ,$(1)))
empty :=
space := $(empty) $(empty)
export LD_LIBRARY_PATH := $(subst $(space),:,$(strip $(call no_ros,$(LD_LIBRARY_PATH))))
export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV)
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
export ROS_LOCALHOST_ONLY := 1
unexport PYTHONPATH PYTHONHOME COLCON_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO ROS_DISCOVERY_SERVER
unexport FASTRTPS_DEFAULT_PROFILES_FILE FASTDDS_DEFAULT_PROFILES_FILE
# Set by the wheels when their Python starts; inherited, it would keep ours from finding its libraries.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: demo talk view bench test test-heavy lint format clean venv

demo: $(READY)
	$(BIN)/timar demo $(strip --out "$(OUT)" $(if $(SELF),--self "$(SELF)") $(if $(PARTNER),--partner "$(PARTNER)") \
	    $(if $(ROBOT),--robot "$(ROBOT)"))

bench: $(READY)
	$(BIN)/timar bench

view: $(READY)
	$(BIN)/timar view $(strip $(if $(BAG),--bag "$(BAG)") $(if $(SELF),--self "$(SELF)") \
	    $(if $(PARTNER),--partner "$(PARTNER)") $(if $(ROBOT),--robot "$(ROBOT)") $(if $(URDF),--urdf "$(URDF)") \
	    $(if $(FACE),--face "$(FACE)") $(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)"))

talk: $(READY)
	$(BIN)/timar talk $(if $(SAY),--say "$(SAY)") $(if $(filter command line environment,$(origin OUT)),--out "$(OUT)")

# Two at a time but for what runs in real time, which comes last and has the machine to itself.
test: lint
	$(BIN)/python -m pytest -m "not heavy and not live" --numprocesses 2 --dist worksteal
	$(BIN)/python -m pytest -m "live and not heavy"

test-heavy: $(READY)
	$(BIN)/python -m pytest -m heavy

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out build install log .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(READY)

$(READY): requirements/demo.txt requirements/test.txt requirements/constraints.txt setup.py setup.cfg
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { \
	    echo "make needs x86-64 Linux: the ROS wheels exist for nothing else, and this is $$(uname -sm)." \
	         "Install ROS 2 and use colcon build, as README says." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo "make needs Python 3.10 to 3.13; $(PYTHON) is $$("$(PYTHON)" --version 2>/dev/null || echo "not there")." \
	         "Name another: make demo PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV): about 1.5 GB are fetched and installed, which takes a minute or two."
	@"$(PYTHON)" -m venv $(VENV) || { \
	    echo "The environment could not be made. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@# A checkout in a colcon workspace: the wheels' package.xml files are not packages to build.
	@touch $(VENV)/COLCON_IGNORE
	@$(PIP) --no-deps --retries 1 $(addprefix --extra-index-url ,$(TORCH_INDEX)) -c requirements/constraints.txt torch
	@$(PIP) -r requirements/test.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
