# The recipe itself, run by the Makefile in a working directory that holds mmkit.toml. Every target is a file there.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := report

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
SEED ?= 0
SHARE ?= 1
BASE_STEPS ?= 400
# Equal weights, weights that follow the losses, and those that follow contribution and difficulty.
LOSS_METHODS := ew tla rlw dwa igb
# The large subsets are all rows, as on the paper's Academic Benchmark.
LARGE ?= 1
# A set NAME is the files train/NAME.jsonl, val/NAME.jsonl and test/NAME.jsonl under DATA. Of the real recipe, DATA is
# given, and nothing of the miniature is built.
ifeq ($(DATA),)
DATA := tasks
SETS ?= caption page band table colour
METHODS ?= $(LOSS_METHODS) visatb visatb-matched
MODEL ?= base
MINI ?= 1/10
# With some seeds the mini subsets are all that the table wants, and its own data add nothing to divide by.
FLAT ?= drop
FILES := lessons.jsonl $(foreach part,train val test,$(SETS:%=tasks/$(part)/%.jsonl))
TUNING := $(EMPTY) --lr 2e-3
# Over all rows every method gets everything right. A model a task takes its share of the steps.
STEPS ?= 250
OF_ALL := $(EMPTY) --max-steps $(STEPS)
OF_ONE := $(EMPTY) --max-steps $(shell echo $$(($(STEPS) / $(words $(SETS)))))
# IGBv1's first 200 steps measure losses only; here it starts as soon as DWA.
tuned/igb/run.json: WINDOW := $(EMPTY) --balance-window 25
WORDINGS := $(EMPTY) --templates $(HERE)wordings.json
BASE := $(if $(filter init,$(MODEL)),init/config.json,base/run.json)
else
SETS ?= $(basename $(notdir $(wildcard $(DATA)/train/*.jsonl)))
METHODS ?= $(LOSS_METHODS) visatb
MINI ?= 1/32
FLAT ?= error
TUNING := $(EMPTY) --preset visatb
# Questions on one image are one conversation (the paper's Appendix A).
MERGED := $(EMPTY) --merge-image
endif
ROOT := $(if $(IMAGE_ROOT), --image-root $(IMAGE_ROOT))

WEIGHED := $(filter-out $(LOSS_METHODS),$(METHODS))
TRAIN := $(SETS:%=train/%.jsonl)
VAL := $(SETS:%=val/%.jsonl)
TUNE = mmkit finetune --model $(MODEL)$(TUNING)$(ROOT)
PREDICT = mmkit predict$(ROOT)
SCORES := $(METHODS:%=scores-%.jsonl)

.PHONY: report
report: comparison.jsonl $(WEIGHED:%=weights-%.jsonl)
	@python $(HERE)report.py

# ---- the miniature's own data, and a base model that looks and copies, but has never met the tasks

$(FILES) &: $(HERE)make_data.py mmkit.toml
	python $(HERE)make_data.py . --seed $(SEED) --share $(SHARE)

init/config.json: $(FILES)
	mmkit tiny-model init --corpus lessons.jsonl $(patsubst %,--corpus %,$(filter tasks/train/%,$(FILES)))

base/run.json: init/config.json lessons.jsonl
	mmkit finetune lessons.jsonl --model init -o base --max-steps $(BASE_STEPS) --lr 2e-3

# ---- conversations

$(TRAIN): train/%.jsonl: $(DATA)/train/%.jsonl mmkit.toml
	mkdir -p train
	mmkit instruct $<$(WORDINGS)$(MERGED) > $@

$(VAL) $(SETS:%=test/%.jsonl): %.jsonl: $(DATA)/%.jsonl mmkit.toml
	mkdir -p $(@D)
	mmkit instruct $<$(WORDINGS) > $@

# ---- contribution, difficulty and the weights that follow from them

# The trained models' values are kept in cells/, so that what is measured last trains only what it alone needs. What is
# measured before it must not inherit its difficulty.
contribution-visatb-matched.jsonl: private DIFFICULTY := $(EMPTY) --difficulty matched
contribution-visatb-matched.jsonl: | $(filter-out %-matched.jsonl,$(WEIGHED:%=contribution-%.jsonl))
$(WEIGHED:%=contribution-%.jsonl): $(TRAIN) $(VAL) $(BASE)
	mmkit measure-contribution $(TRAIN:%=--train %) $(VAL:%=--val %) --model $(MODEL)$(TUNING)$(ROOT) \
	    --large $(LARGE) --mini $(MINI)$(DIFFICULTY) --on-flat $(FLAT) --work cells > $@

$(WEIGHED:%=weights-%.jsonl): weights-%.jsonl: contribution-%.jsonl mmkit.toml
	mmkit weights $< > $@

# ---- a model a task (STL), and one a method for all tasks. UNWEIGHED are trained on, too; VisATB's weights leave them at 1.

$(SETS:%=tuned/stl-%/run.json): tuned/stl-%/run.json: train/%.jsonl $(BASE)
	$(TUNE)$(OF_ONE) $< -o tuned/stl-$*

$(WEIGHED:%=tuned/%/run.json): tuned/%/run.json: weights-%.jsonl
$(WEIGHED:%=tuned/%/run.json): BALANCE = --weights weights-$*.jsonl --default-weight 1
$(METHODS:%=tuned/%/run.json): tuned/%/run.json: $(TRAIN) $(UNWEIGHED) $(BASE)
	$(TUNE)$(OF_ALL) $(TRAIN) $(UNWEIGHED) -o tuned/$* $(or $(BALANCE),--balance $*$(WINDOW))

# ---- predictions, scores, and all methods against a model a task

$(SETS:%=answers/stl-%.jsonl): answers/stl-%.jsonl: tuned/stl-%/run.json test/%.jsonl
	mkdir -p answers
	$(PREDICT) test/$*.jsonl --model tuned/stl-$* > $@

scores-stl.jsonl: $(SETS:%=answers/stl-%.jsonl)
	mmkit eval $^ > $@

$(SCORES): scores-%.jsonl: tuned/%/run.json $(SETS:%=test/%.jsonl)
	$(PREDICT) $(SETS:%=test/%.jsonl) --model tuned/$* | mmkit eval > $@

comparison.jsonl: scores-stl.jsonl $(SCORES)
	mmkit compare --baseline stl=scores-stl.jsonl $(foreach method,$(METHODS),$(method)=scores-$(method).jsonl) > comparison.jsonl
