# The recipe itself, run by the Makefile in a working directory that holds mmkit.toml. Every target is a file there.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := report

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
SEED ?= 0
SHARE ?= 1
BASE_STEPS ?= 500
SYNTHESIZER_STEPS ?= 450
TUNED_STEPS ?= 350
DIGITS := base.jsonl seeds.jsonl digits.jsonl test.jsonl truth.jsonl

# Of the real recipe, all four are given, and nothing of the miniature is built.
ifeq ($(CAPTIONS),)
CAPTIONS := digits.jsonl
TEST := test.jsonl
MODEL := base
tasks.jsonl: synthesizer/run.json
before.jsonl synthesizer/run.json tuned/run.json: $(if $(filter init,$(MODEL)),init/config.json,base/run.json)
TUNING := $(EMPTY) --max-steps $(TUNED_STEPS) --lr 1e-3
endif
ROOT := $(if $(IMAGE_ROOT), --image-root $(IMAGE_ROOT))

.PHONY: report
ifneq ($(TEST),)
report: before.jsonl after.jsonl tasks.jsonl
	mmkit compare --baseline before.jsonl after.jsonl
	@python $(HERE)report.py
else
report: tuned/run.json
endif

# ---- the miniature's own data and models

$(DIGITS) &: $(HERE)make_data.py mmkit.toml
	python $(HERE)make_data.py . --seed $(SEED) --share $(SHARE)

synthesizer.jsonl: seeds.jsonl
	mmkit compose seeds.jsonl --stage synthesizer --blank-rate 0.1 > synthesizer.jsonl

init/config.json: base.jsonl synthesizer.jsonl digits.jsonl
	mmkit tiny-model init --corpus base.jsonl --corpus synthesizer.jsonl --corpus digits.jsonl

base/run.json: init/config.json base.jsonl
	mmkit finetune base.jsonl --model init -o base --max-steps $(BASE_STEPS) --lr 2e-3

synthesizer/run.json: synthesizer.jsonl
	mmkit finetune synthesizer.jsonl --model $(MODEL) -o synthesizer --max-steps $(SYNTHESIZER_STEPS) --lr 2e-3

# ---- the recipe

before.jsonl tasks.jsonl: mmkit.toml

before.jsonl: $(TEST)
	mmkit predict $(TEST) --model $(MODEL)$(ROOT) | mmkit eval > before.jsonl

tasks.jsonl: $(CAPTIONS)
	mmkit synthesize --captions $(CAPTIONS)$(if $(SYNTHESIZER), --model $(SYNTHESIZER))$(ROOT) | mmkit filter$(if $(JUDGE), --model $(JUDGE)) > tasks.jsonl

train.jsonl: tasks.jsonl $(CAPTIONS)
	mmkit compose tasks.jsonl --captions $(CAPTIONS) --stage single > train.jsonl

tuned/run.json: train.jsonl
	mmkit finetune train.jsonl --model $(MODEL) -o tuned$(TUNING)$(ROOT)

after.jsonl: tuned/run.json $(TEST)
	mmkit predict $(TEST) --model tuned$(ROOT) | mmkit eval > after.jsonl
