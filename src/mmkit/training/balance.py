"""Task weights that follow the training: the baselines VisATB is compared with, as λ for the token loss of its eq. 2.

Each balance gives the λ of every task for one optimizer step, and afterwards sees the losses of that step. Losses are
those of the global batch, summed over ranks and micro-steps, so every rank comes to the same λ, whatever the number of
ranks. Losses enter as numbers: no gradient flows through λ.

The λ of RLW, DWA and IGBv1 have mean 1 over the tasks. Under eq. 2 their scale cancels; under `weight_norm` "tokens" it
keeps the loss as large as without them.

Sources: VisATB, section 3 (compared methods) and its released code; the paper of each method is named at its class.
Deviations from that code in all of them: task means are taken over the global batch, not over the micro-batch of one
device; valid tokens are told by the labels, not by a loss other than 0; a step in which a task is absent does not
count as a loss of 0 for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mmkit.errors import DataError, UsageError
from mmkit.seeds import generator
from mmkit.training.config import TuneConfig

DWA_WINDOW = 25
IGB_WINDOW = 100


class Balance(Protocol):
    """Sets λ from step to step. Tasks are told by position, the same in every call."""

    def task_weights(self, step: int, tokens: Sequence[float]) -> list[float]:
        """The λ of each task for optimizer step `step` (from 0), whose global batch has `tokens` valid tokens of each.

        Never negative, never NaN.
        """
        ...

    def observe(self, nll: Sequence[float], tokens: Sequence[float]) -> None:
        """The outcome of a step: of each task the summed negative log-likelihood of its tokens, without λ, and their
        number, both of the global batch. A task without tokens is absent."""
        ...

    def state(self) -> dict[str, Any]:
        """What has been observed, as JSON values that keep every float exactly."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, to the same λ. Raises DataError where it is that of other tasks or another balance."""
        ...


def balance_of(config: TuneConfig, num_tasks: int) -> Balance:
    """The balance that `config.balance` names. Raises UsageError for a `balance_window` where it has no windows."""
    window = config.balance_window
    if config.balance == "dwa":
        return DynamicWeightAverage(num_tasks, window or DWA_WINDOW, config.balance_temperature)
    if config.balance == "igb":
        return ImprovableGap(num_tasks, window or IGB_WINDOW)
    if window is not None:
        raise UsageError(f"balance {config.balance} has no window; balance_window is for dwa and igb")
    if config.balance == "tla" and config.weight_norm == "tokens":
        raise UsageError("balance tla is a mean of the tasks' means, which weight_norm tokens would divide otherwise")
    if config.balance == "rlw":
        return RandomLossWeighting(num_tasks, config.seed)
    return TaskLevelAggregation() if config.balance == "tla" else EqualWeighting()


class _Stateless:
    def observe(self, nll: Sequence[float], tokens: Sequence[float]) -> None:
        """Nothing: λ does not depend on it."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises DataError for the state of another balance."""
        if state:
            raise DataError(f"the balance that was saved kept {', '.join(state)}; this one keeps nothing")


class EqualWeighting(_Stateless):
    """EW: λ = 1, every token counts the same. Source: VisATB, eq. 1. Deviation: none."""

    def task_weights(self, step: int, tokens: Sequence[float]) -> list[float]:
        """1 for each task."""
        return [1.0] * len(tokens)


class TaskLevelAggregation(_Stateless):
    """TLA: the mean over tasks of each task's mean token loss.

    λ_k = 1 / n_k with n_k the valid tokens of task k in the global batch; then the denominator of eq. 2, Σ λ_k n_k, is
    the number of tasks present, and eq. 2 is the mean over these. An absent task has λ = 0.
    Source: VisATB, section 3. Deviation: the released code divides by the number of all tasks, absent ones included,
    which scales the gradient of a step by how many are present.
    """

    def task_weights(self, step: int, tokens: Sequence[float]) -> list[float]:
        """1 / n_k, or 0 for an absent task."""
        return [1 / count if count else 0.0 for count in tokens]


class RandomLossWeighting(_Stateless):
    """RLW: λ_k = N softmax(z)_k over the N tasks, z standard normal, drawn afresh at every step.

    Source: Lin, Ye, Zhang, Tsang: Reasonable Effectiveness of Random Weighting, TMLR 2022 (normal variant).
    Deviation: z is a function of (seed, step), equal on all ranks; the released code draws on each by itself. The
    softmax runs over all tasks, absent ones included, as there.
    """

    def __init__(self, num_tasks: int, seed: int) -> None:
        self._num_tasks, self._seed = num_tasks, seed

    def task_weights(self, step: int, tokens: Sequence[float]) -> list[float]:
        """The draw of this step."""
        random = generator(self._seed, str(step), "finetune.rlw")
        return _scaled_softmax([random.gauss() for _ in range(self._num_tasks)])


class DynamicWeightAverage:
    """DWA: tasks whose loss falls slowly get more weight.

    λ_k = N softmax(r / T)_k with r_k = L_k(last window) / L_k(window before), T the temperature (2 in both papers).
    L_k of a window is the mean, over those of its steps that held task k, of the task's mean token loss. The two
    windows, of `window` steps each, slide with every step. λ is 1 until both are full. A task that a window never saw,
    or whose loss in the earlier one was 0, has r_k = 1: neither slow nor fast.

    Source: Liu, Johns, Davison: End-to-End Multi-Task Learning with Attention, CVPR 2019. Deviation: windows of
    steps in place of epochs, as in VisATB's code (25). That code starts one step after the first window and compares
    with placeholder losses of 1 until the second is full, and counts the current step, whose λ it sets, in the last
    window; here, as in the original, only what is past.
    """

    def __init__(self, num_tasks: int, window: int, temperature: float) -> None:
        self._num_tasks, self._window, self._temperature = num_tasks, window, temperature
        self._losses: list[list[float | None]] = []  # task means of the last 2 × window steps, oldest first

    def task_weights(self, step: int, tokens: Sequence[float]) -> list[float]:
        """λ from the two windows before this step."""
        if len(self._losses) < 2 * self._window:
            return [1.0] * self._num_tasks
        before, last = self._means(0, self._window), self._means(self._window, 2 * self._window)
        ratios = [now / then if now is not None and then else 1.0 for now, then in zip(last, before, strict=True)]
        return _scaled_softmax([ratio / self._temperature for ratio in ratios])

    def _means(self, start: int, stop: int) -> list[float | None]:
        by_task = zip(*self._losses[start:stop], strict=True)
        seen = [[loss for loss in losses if loss is not None] for losses in by_task]
        return [math.fsum(losses) / len(losses) if losses else None for losses in seen]

    def observe(self, nll: Sequence[float], tokens: Sequence[float]) -> None:
        """Slide both windows by one step."""
        self._losses = [*self._losses[1 - 2 * self._window :], _task_means(nll, tokens)]

    def state(self) -> dict[str, Any]:
        """`losses`: the task means (None for an absent task) of the last two windows."""
        return {"losses": list(self._losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises DataError where the tasks or the balance are others."""
        _check_state(state, self.state(), self._num_tasks, *state.get("losses", ()))
        self._losses = [list(losses) for losses in state["losses"]]


class ImprovableGap:
    """IGBv1: tasks that have improved least since a base get more weight.

    λ_k = N softmax(L_k / base_k)_k. base_k is the mean of the task's mean token losses over the second `window` steps
    (100 to 199), L_k its latest one. λ is 1 until the base is known, after 2 × window steps. A task that those steps
    never held takes the first loss seen after them as its base, and until then, as with a base of 0, its ratio is 1:
    no gap closed yet.

    Source: Dai, Fei, Lu: Improvable Gap Balancing for Multi-Task Learning, UAI 2023, where the base is the mean loss of
    an early epoch; windows of steps (100) as in VisATB's code. Deviation: the latest loss is that of the last step that
    held the task, since λ is set before the current step is run; the code takes the loss of the very batch that it
    weighs, and 0 for an absent task. The original adds up weighted logarithms of losses; eq. 2 takes the losses.
    """

    def __init__(self, num_tasks: int, window: int) -> None:
        self._num_tasks, self._window = num_tasks, window
        self._steps = 0
        self._base_sums = [0.0] * num_tasks
        self._base_counts = [0] * num_tasks
        self._latest: list[float | None] = [None] * num_tasks

    def task_weights(self, step: int, tokens: Sequence[float]) -> list[float]:
        """λ from the base and the latest loss of each task."""
        if self._steps < 2 * self._window:
            return [1.0] * self._num_tasks
        return _scaled_softmax([self._ratio(task) for task in range(self._num_tasks)])

    def _ratio(self, task: int) -> float:
        latest, total = self._latest[task], self._base_sums[task]
        return 1.0 if latest is None or total == 0 else latest * self._base_counts[task] / total

    def observe(self, nll: Sequence[float], tokens: Sequence[float]) -> None:
        """Remember the latest losses; those of the second window make the base."""
        for task, loss in enumerate(_task_means(nll, tokens)):
            if loss is None:
                continue
            self._latest[task] = loss
            in_base = self._window <= self._steps < 2 * self._window
            if in_base or (self._steps >= 2 * self._window and not self._base_counts[task]):
                self._base_sums[task] += loss
                self._base_counts[task] += 1
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """`steps` observed, and of each task sum and count of the base losses and the `latest` loss."""
        return {
            "steps": self._steps,
            "base_sums": list(self._base_sums),
            "base_counts": list(self._base_counts),
            "latest": list(self._latest),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises DataError where the tasks or the balance are others."""
        own = self.state()
        _check_state(state, own, self._num_tasks, *(state[name] for name in own if name != "steps" and name in state))
        self._steps = state["steps"]
        self._base_sums = list(state["base_sums"])
        self._base_counts = list(state["base_counts"])
        self._latest = list(state["latest"])


def _task_means(nll: Sequence[float], tokens: Sequence[float]) -> list[float | None]:
    return [total / count if count else None for total, count in zip(nll, tokens, strict=True)]


def _scaled_softmax(logits: Sequence[float]) -> list[float]:
    """N softmax, N the number of logits: the mean is 1."""
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    scale = len(powers) / math.fsum(powers)
    return [power * scale for power in powers]


def _check_state(
    state: Mapping[str, Any], own: Mapping[str, Any], num_tasks: int, *per_task: Sequence[float | None]
) -> None:
    if set(state) != set(own):
        raise DataError(
            f"the balance that was saved kept {', '.join(state) or 'nothing'}; this one keeps {', '.join(own)}"
        )
    for values in per_task:
        if len(values) != num_tasks:
            raise DataError(f"the balance that was saved had {len(values)} tasks, this one has {num_tasks}")
