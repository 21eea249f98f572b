# The recipe itself, run by the Makefile in a working directory that holds mmkit.toml. Every target is a file there.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := report

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
SEED ?= 0
SHARE ?= 1
BUDGET ?= 4800
# Percent of language in the budget, and percent of the budget spent on language alone.
MIXTURES ?= 0 12.5 25 37.5 50 62.5 75 87.5 100
BUDGETS ?= 25 50 75
# Mixtures whose tokens are counted and that no model is tuned on: LLaVA's.
COUNTED ?= 6
BASE_STEPS ?= 1000
PROJECTOR_STEPS ?= 300
# The wordings of test questions are drawn by another seed than those of training.
TEST_SEED := $(shell echo $$(($(SEED) + 1000)))

# Of the real recipe, all of these are given, and nothing of the miniature is built.
ifeq ($(MODEL),)
CAPTIONS := captions.jsonl
LANGUAGE := $(patsubst %,language/note-%.jsonl,colour thing warm not-place size-and-thing)
VISION := $(patsubst %,vision/picture-%.jsonl,colour size-and-thing)
NEW := colour size-and-thing warm not-place
TEST := $(patsubst %,test/new-note-%.jsonl,$(NEW)) $(patsubst %,test/new-picture-%.jsonl,$(NEW))
DATA := lessons.jsonl $(CAPTIONS) $(LANGUAGE) $(VISION) $(TEST)
MODEL := fresh
ALIGNING := $(EMPTY) --max-steps $(PROJECTOR_STEPS) --lr 2e-3
TUNING := $(EMPTY) --lr 1e-3
pretrained/run.json: fresh/config.json
else
GROUPS ?= $(HERE)groups.jsonl
HELDOUT := $(TEST)
DIVERSITY := diversity.jsonl
endif
ROOT := $(if $(IMAGE_ROOT), --image-root $(IMAGE_ROOT))

MIX = mmkit mix$(if $(GROUPS), --by file --groups $(GROUPS))$(patsubst %, --heldout %,$(HELDOUT))$(ROOT)
RUNS := $(MIXTURES) $(patsubst %,budget-%,$(BUDGETS))
# Language alone is what the others' tokens are compared with, whether or not a model is tuned on it.
UNTUNED := $(sort $(filter-out $(MIXTURES),$(COUNTED) 100))
TRAIN := $(patsubst %,train-%.jsonl,$(RUNS) $(UNTUNED))
TUNED := $(patsubst %,tuned-%/run.json,$(RUNS))
SCORES := $(patsubst %,scores-%.jsonl,pretrained $(RUNS))

.PHONY: report
report: $(SCORES) $(TUNED) tokens.jsonl $(DIVERSITY)
	@python $(HERE)report.py

# ---- the miniature's own data, and a model whose projector is untrained

$(DATA) &: $(HERE)make_data.py mmkit.toml
	python $(HERE)make_data.py . --seed $(SEED) --share $(SHARE)

words.jsonl: $(LANGUAGE) $(VISION) $(TEST)
	{ mmkit instruct $(LANGUAGE) $(VISION); mmkit instruct $(TEST) --seed $(TEST_SEED); } > words.jsonl

init/config.json: lessons.jsonl words.jsonl
	mmkit tiny-model init --corpus lessons.jsonl --corpus words.jsonl

base/run.json: init/config.json lessons.jsonl
	mmkit finetune lessons.jsonl --model init -o base --max-steps $(BASE_STEPS) --lr 2e-3

fresh/config.json: base/run.json
	python $(HERE)fresh_projector.py base fresh --seed $(SEED)

# ---- the recipe: the projector learns from captions, then model and projector from a mixture of tasks

pretrain.jsonl: $(CAPTIONS) mmkit.toml
	mmkit compose $(CAPTIONS) --stage captions > pretrain.jsonl

pretrained/run.json: pretrain.jsonl
	mmkit finetune pretrain.jsonl --model $(MODEL) -o pretrained --preset mlan-pretrain$(ALIGNING)$(ROOT)

$(patsubst %,train-%.jsonl,$(MIXTURES) $(UNTUNED)): train-%.jsonl: $(LANGUAGE) $(VISION) $(HELDOUT) $(GROUPS) mmkit.toml
	$(MIX) $(LANGUAGE) $(VISION) --budget $(BUDGET) --ratio language=$*e-2,vision=$$(awk 'BEGIN { print 1 - $* / 100 }') \
	    | mmkit instruct > $@

$(patsubst %,train-budget-%.jsonl,$(BUDGETS)): train-budget-%.jsonl: $(LANGUAGE) $(HELDOUT) $(GROUPS) mmkit.toml
	$(MIX) $(LANGUAGE) --budget $$(($(BUDGET) * $* / 100)) --ratio language=1 | mmkit instruct > $@

$(TUNED): tuned-%/run.json: train-%.jsonl pretrained/run.json
	mmkit finetune $< --model pretrained -o tuned-$* --preset mlan$(TUNING)$(ROOT)

test.jsonl: $(TEST) mmkit.toml
	mmkit instruct $(TEST) --seed $(TEST_SEED) > test.jsonl

scores-pretrained.jsonl: pretrained/run.json test.jsonl
	mmkit predict test.jsonl --model pretrained$(ROOT) | mmkit eval > $@

$(patsubst %,scores-%.jsonl,$(RUNS)): scores-%.jsonl: tuned-%/run.json test.jsonl
	mmkit predict test.jsonl --model tuned-$*$(ROOT) | mmkit eval > $@

tokens.jsonl: $(TRAIN) pretrained/run.json
	mmkit stats $(TRAIN) --model pretrained --baseline train-100.jsonl$(ROOT) > tokens.jsonl

diversity.jsonl: $(LANGUAGE) $(VISION) mmkit.toml
	mmkit stats --diversity $(LANGUAGE) $(VISION) > diversity.jsonl
