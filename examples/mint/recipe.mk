# The recipe itself, run by the Makefile in a working directory that holds mmkit.toml. Every target is a file there.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := report

HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
SEED ?= 0
SHARE ?= 1
BASE_STEPS ?= 400
FIRST_STEPS ?= 400
SECOND_STEPS ?= 300
EPOCHS ?= 3
# How `group` groups: the paper's thresholds, on scores without the agreement that is due to chance.
GROUP ?= --corrected
CLUSTERS ?= 1 2 3

# Of the real recipe, all of these are given, and nothing of the miniature is built.
ifeq ($(TRAIN),)
TASKS ?= redundant-colour redundant-page unique-image unique-text synergy-latin synergy-xor
SCORED := $(TASKS:%=scored/%.jsonl)
TRAIN := $(TASKS:%=train/%.jsonl)
TEST := $(TASKS:%=test/%.jsonl)
LESSONS := base.jsonl one-modality.jsonl any-view.jsonl
DATA := $(LESSONS) $(SCORED) $(TRAIN) $(TEST)
MODEL ?= base
SCORER ?= scorer
TUNING := $(EMPTY) --epochs $(EPOCHS) --batch-size 16 --lr 3e-3
SIMILAR := --by file --groups $(HERE)similar.jsonl
WORDINGS := $(EMPTY) --templates $(HERE)wordings.json
BASE := $(if $(filter init,$(MODEL)),init/config.json,base/run.json)
interaction.jsonl: $(if $(filter init,$(SCORER)),init/config.json,scorer/run.json)
else
SCORED := $(TRAIN)
SCORER ?= $(MODEL)
SIMILAR := --by similarity
endif
ROOT := $(if $(IMAGE_ROOT), --image-root $(IMAGE_ROOT))

PRESET := mint
TUNE = mmkit finetune train.jsonl --model $(MODEL) --preset $(PRESET)$(TUNING)$(ROOT)
PREDICT = mmkit predict --model $(MODEL)$(ROOT)
ALL_TESTS := test.jsonl$(if $(UNSEEN), unseen.jsonl)
SCORES := $(patsubst %,scores-%.jsonl,base single mint all mixlora $(CLUSTERS:%=similar-%))

.PHONY: report
report: $(SCORES) interaction.jsonl groups-raw.jsonl
	@python $(HERE)report.py

# ---- the miniature's own data, a base model that has never met the tasks, and one that has learned them

$(DATA) &: $(HERE)make_data.py mmkit.toml
	python $(HERE)make_data.py . --seed $(SEED) --share $(SHARE)

init/config.json: $(LESSONS)
	mmkit tiny-model init $(LESSONS:%=--corpus %)

base/run.json: init/config.json base.jsonl
	mmkit finetune base.jsonl --model init -o base --max-steps $(BASE_STEPS) --lr 2e-3

first/run.json: base/run.json one-modality.jsonl
	mmkit finetune one-modality.jsonl --model base -o first --max-steps $(FIRST_STEPS) --lr 2e-3 --min-lr-ratio 0.3

scorer/run.json: first/run.json any-view.jsonl
	mmkit finetune any-view.jsonl --model first -o scorer --max-steps $(SECOND_STEPS) --lr 1e-3

# ---- the groups: by interaction (MINT), without the correction for chance, each task alone, by like instructions

interaction.jsonl: $(SCORED) mmkit.toml
	mmkit score-interaction $(SCORED) --model $(SCORER) $(SCORE)$(ROOT) > interaction.jsonl

groups-mint.jsonl: interaction.jsonl
	mmkit group interaction.jsonl $(GROUP) > groups-mint.jsonl

groups-raw.jsonl: interaction.jsonl
	mmkit group interaction.jsonl > groups-raw.jsonl

groups-single.jsonl: $(TRAIN)
	mmkit group $(TRAIN) --by single > groups-single.jsonl

groups-similar.jsonl: $(TRAIN)
	mmkit group $(TRAIN) $(SIMILAR) > groups-similar.jsonl

# ---- the adapters: one a group, and those of the baselines

train.jsonl: $(TRAIN) mmkit.toml
	mmkit instruct $(TRAIN)$(WORDINGS) > train.jsonl

# One LoRA a group. What is left is `predict --adapters`' own form: GROUP=DIR,GROUP=DIR.
adapters-mint adapters-single: adapters-%: groups-%.jsonl train.jsonl $(BASE)
	for group in $$(python $(HERE)group_names.py $<); do \
	    $(TUNE) -o tuned/$*-$$group --groups $< --group $$group; \
	done
	python $(HERE)group_names.py $< | sed 's|.*|&=tuned/$*-&|' | paste -sd, > $@

$(CLUSTERS:%=tuned/similar-%/run.json): tuned/similar-%/run.json: groups-similar.jsonl train.jsonl $(BASE)
	$(TUNE) -o tuned/similar-$* --groups groups-similar.jsonl --group group-$*

tuned/all/run.json: train.jsonl $(BASE)
	$(TUNE) -o tuned/all

tuned/mixlora/run.json: PRESET := mint-mixlora
tuned/mixlora/run.json: train.jsonl $(BASE)
	$(TUNE) -o tuned/mixlora

# ---- predictions and scores. A set that no training group has is given the group of its own score.

test.jsonl: $(TEST) mmkit.toml
	mmkit instruct $(TEST)$(WORDINGS) > test.jsonl

unseen.jsonl: $(UNSEEN) mmkit.toml
	mmkit instruct $(UNSEEN)$(WORDINGS) > unseen.jsonl

interaction-unseen.jsonl: $(UNSEEN) mmkit.toml
	mmkit score-interaction $(UNSEEN) --model $(SCORER) $(SCORE)$(ROOT) > interaction-unseen.jsonl

routes.jsonl: groups-mint.jsonl $(if $(UNSEEN),interaction-unseen.jsonl)
ifeq ($(UNSEEN),)
	cp groups-mint.jsonl routes.jsonl
else
	mmkit group interaction-unseen.jsonl --assign groups-mint.jsonl $(GROUP) > routes.jsonl
endif

scores-base.jsonl: $(ALL_TESTS) $(BASE)
	$(PREDICT) $(ALL_TESTS) | mmkit eval > $@

scores-mint.jsonl: routes.jsonl adapters-mint $(ALL_TESTS)
	$(PREDICT) $(ALL_TESTS) --route routes.jsonl --adapters "$$(cat adapters-mint)" | mmkit eval > $@

scores-single.jsonl: adapters-single test.jsonl
	$(PREDICT) test.jsonl --route groups-single.jsonl --adapters "$$(cat adapters-single)" | mmkit eval > $@

# vLLM takes no mixture of LoRA.
scores-mixlora.jsonl: PREDICT += --engine transformers
scores-all.jsonl scores-mixlora.jsonl $(CLUSTERS:%=scores-similar-%.jsonl): scores-%.jsonl: tuned/%/run.json $(ALL_TESTS)
	$(PREDICT) $(ALL_TESTS) --adapter tuned/$* | mmkit eval > $@
