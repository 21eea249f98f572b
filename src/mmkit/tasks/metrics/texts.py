"""Scores of a text against reference texts: CIDEr-D, ROUGE-L, BLEU, chrF, GLEU, similarity of sentence embeddings.

All take the reply whole: a caption or a recipe states no answer.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mmkit.tasks.embedding import embed
from mmkit.tasks.metrics.fields import golds, prediction
from mmkit.tasks.metrics.metric import Pooled, Record, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sums: TypeAlias = "NDArray[np.float64]"

_WORD = re.compile(r"\w+(?:-\w+)*|'\w+")
_MAX_ORDER = 4
_CHRF_ORDER = 6
_CHRF_BETA = 2


def words_of(text: str) -> str:
    """The words in lower case with a blank between; marks dropped, hyphens inside words kept, "'s" a word."""
    return " ".join(_WORD.findall(text.lower()))


def cider(records: Sequence[Record], tokenise: Callable[[str], str]) -> list[Score]:
    """CIDEr-D of each row, in order.

    Range 0 to 10 points. The document frequencies are those of the references of all rows given, so that a score
    depends on its company: a row alone scores 0, and n-grams that no reference has weigh more in a larger set. Rule
    "strict" takes the words of `words_of`; "visatb" the bare strings, split at blanks. Source: CIDEr-D (Vedantam et
    al. 2015) by pycocoevalcap, which prints it on this scale. Deviation: no PTB tokeniser, which needs Java; it gives
    the same words but for contractions.
    """
    from pycocoevalcap.cider.cider import Cider

    candidates = {row: [tokenise(prediction(record))] for row, record in enumerate(records)}
    references = {row: [tokenise(gold) for gold in golds(record)] for row, record in enumerate(records)}
    if not any(reference.split() for row in references.values() for reference in row):
        values = [0.0] * len(records)
    else:
        _, values = Cider().compute_score(references, candidates)
    return [
        Score(float(value) if said else 0.0, said or None)
        for value, said in zip(values, (candidates[row][0].strip() for row in candidates), strict=True)
    ]


def rouge_l(record: Record) -> Score:
    """F1 of the longest common subsequence of words; the best of several references.

    Range 0 to 100 %. Words are runs of ASCII letters and digits in lower case; no stemmer. Source: ROUGE-L (Lin 2004)
    by rouge-score. Deviation: none.
    """
    reply = prediction(record)
    best = _rouge_scorer().score_multi(golds(record), reply)["rougeL"].fmeasure
    return Score(100.0 * float(best), reply.strip() or None)


def rouge_l_adamllm(record: Record) -> Score:
    """F1 of the distinct words in the longest common subsequences of sentences; the best of several references.

    Range 0 to 100 %. Sentences end at ".", words at blanks; case counts. Source: ROUGE-L of the Python package rouge
    1.0.1, by which AdaMLLM scores Recipe1M. Deviation: none where the package gives a number. It needs a stack frame a
    word, and AdaMLLM scores 0 what is too long for it.
    """
    reply = prediction(record)
    best = max(_summary_rouge_l(_sentences(reply), _sentences(gold)) for gold in golds(record))
    return Score(100.0 * best, reply.strip() or None)


def bleu(record: Record) -> Score:
    """Sentence BLEU of the row; the task's value is corpus BLEU from the summed `BLEU.names`.

    Range 0 to 100 %. Source: BLEU (Papineni et al. 2002) by sacrebleu with its defaults (13a, exponential smoothing);
    the row's own value with effective order, as sacrebleu advises. Deviation: none.
    """
    reply = prediction(record)
    found = _sacrebleu().sentence_score(reply, golds(record))
    statistics = (found.sys_len, found.ref_len, *found.counts, *found.totals)
    return Score(min(found.score, 100.0), reply.strip() or None, tuple(map(float, statistics)))


def chrf(record: Record) -> Score:
    """chrF2 of the row against its best reference; the task's value is corpus chrF2 from the summed `CHRF.names`.

    Range 0 to 100 %. Source: chrF (Popović 2015), character 1- to 6-grams, beta 2, as sacrebleu by default. Deviation:
    none.
    """
    import numpy as np

    reply = prediction(record)
    said = _character_ngrams(reply)
    statistics = np.array([_chrf_statistics(said, _character_ngrams(gold)) for gold in golds(record)], dtype=float)
    values = CHRF.value(statistics)
    best = int(values.argmax())
    return Score(float(values[best]), reply.strip() or None, tuple(statistics[best].tolist()))


def gleu(record: Record) -> Score:
    """Google's BLEU of the row against its best reference; the task's value is the ratio of the summed `GLEU.names`.

    Range 0 to 100 %: matching 1- to 4-grams over those of the longer text. Words are those of `words_of`. Source: GLEU
    (Wu et al. 2016) as nltk's corpus_gleu. Deviation: none.
    """
    reply = prediction(record)
    said = _word_ngrams(words_of(reply).split())
    pairs = []
    for gold in golds(record):
        wanted = _word_ngrams(words_of(gold).split())
        longer = max(said.total(), wanted.total())
        if longer:
            pairs.append(((wanted & said).total(), longer))
    matching, longer = max(pairs, key=lambda pair: pair[0] / pair[1], default=(0, 0))
    value = 100.0 * matching / longer if longer else 0.0
    return Score(value, reply.strip() or None, (float(matching), float(longer)))


def similarity(records: Sequence[Record]) -> list[Score]:
    """Cosine similarity of the sentence embeddings of reply and gold answer, in order; the best of several golds.

    Range -1 to 1. A blank reply is unparsed and gets 0. It is no judge of short, numeric or negated answers: "3" and
    "4" are alike to it. Source: all-MiniLM-L6-v2 by sentence-transformers, which reads 256 word pieces of a text.
    Deviation: none. Raises UnavailableError where the model's files are not there.
    """
    replies = [prediction(record) for record in records]
    gold_answers = [golds(record) for record in records]
    texts = dict.fromkeys(text for texts in (replies, *gold_answers) for text in texts)
    vectors = dict(zip(texts, embed(list(texts)), strict=True))
    return [
        Score(max(_cosine(vectors[reply], vectors[gold]) for gold in own), reply.strip())
        if reply.strip()
        else Score(0.0, None)
        for reply, own in zip(replies, gold_answers, strict=True)
    ]


def _bleu_value(sums: Sums) -> Sums:
    import numpy as np

    said, wanted = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2 : 2 + _MAX_ORDER], sums[..., 2 + _MAX_ORDER :]
    # An order without a match counts half a match, the next such one a quarter, and so on.
    smoothed = np.where(correct > 0, correct, 0.5 ** np.cumsum(correct == 0, axis=-1))
    defined = (total > 0).all(-1) & (correct > 0).any(-1)
    precisions = np.log(smoothed / np.maximum(total, 1)).mean(-1)
    shortness = np.minimum(0, 1 - wanted / np.maximum(said, 1))
    values: Sums = np.where(defined, np.minimum(100 * np.exp(precisions + shortness), 100), 0.0)
    return values


def _chrf_value(sums: Sums) -> Sums:
    import numpy as np

    said, wanted, matching = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    known = (said > 0) & (wanted > 0)
    orders = np.maximum(known.sum(-1), 1)
    precision = np.where(known, matching / np.maximum(said, 1), 0).sum(-1) / orders
    recall = np.where(known, matching / np.maximum(wanted, 1), 0).sum(-1) / orders
    denominator = _CHRF_BETA**2 * precision + recall
    values: Sums = 100 * (1 + _CHRF_BETA**2) * precision * recall / np.where(denominator > 0, denominator, 1)
    return values


def _gleu_value(sums: Sums) -> Sums:
    import numpy as np

    values: Sums = 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)
    return values


def _orders(name: str, count: int) -> Iterator[str]:
    return (f"{name}_{order}" for order in range(1, count + 1))


BLEU = Pooled(
    ("candidate_words", "reference_words", *_orders("matches", _MAX_ORDER), *_orders("ngrams", _MAX_ORDER)),
    _bleu_value,
    {},
)
CHRF = Pooled(
    tuple(
        f"{name}_{order}"
        for order in range(1, _CHRF_ORDER + 1)
        for name in ("candidate_ngrams", "reference_ngrams", "matches")
    ),
    _chrf_value,
    {},
)
GLEU = Pooled(("matches", "ngrams"), _gleu_value, {})


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


@functools.cache
def _sacrebleu() -> Any:
    from sacrebleu import metrics

    return metrics.BLEU(effective_order=True)


def _cosine(one: Sums, other: Sums) -> float:
    return min(max(float(one @ other), -1.0), 1.0)


def _word_ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, _MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )


def _character_ngrams(text: str) -> list[Counter[str]]:
    letters = "".join(text.split())
    return [
        Counter(letters[start : start + order] for start in range(len(letters) - order + 1))
        for order in range(1, _CHRF_ORDER + 1)
    ]


def _chrf_statistics(said: list[Counter[str]], wanted: list[Counter[str]]) -> list[int]:
    """For each order: the candidate's n-grams (0 where the reference has none), the reference's, those in both."""
    return [
        count
        for one, other in zip(said, wanted, strict=True)
        for count in (one.total() if other else 0, other.total(), (other & one).total())
    ]


def _sentences(text: str) -> list[list[str]]:
    return [part.split() or [""] for part in text.split(".") if part]


def _summary_rouge_l(candidate: list[list[str]], reference: list[list[str]]) -> float:
    said, wanted = ({word for sentence in text for word in sentence} for text in (candidate, reference))
    if not said or not wanted:
        return 0.0
    common = {word for one in reference for other in candidate for word in _longest_common_subsequence(one, other)}
    precision, recall = len(common) / len(said), len(common) / len(wanted)
    return 2.0 * precision * recall / (precision + recall + 1e-8)


def _longest_common_subsequence(one: list[str], other: list[str]) -> Iterator[str]:
    """Its words, from the last one; of several such sequences, the one that the package rouge finds."""
    lengths = [[0] * (len(other) + 1)]
    for word in one:
        above, row = lengths[-1], [0]
        for column, its_word in enumerate(other):
            row.append(above[column] + 1 if word == its_word else max(above[column + 1], row[column]))
        lengths.append(row)
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            yield one[i]
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
