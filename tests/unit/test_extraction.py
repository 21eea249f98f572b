"""What is read out of a reply: the stated answer, else the first span that looks like one; never a guess."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkit.tasks.extraction import Options, answer_span, parse_box, parse_number, parse_yes_no, plain, whole_number

ORGANS = ["liver", "lung", "left kidney", "heart"]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("left lung", "left lung"),
        ("The answer is left lung.", "left lung."),
        ("It lies above. So the direct answer is: left lung", "left lung"),
        ("Answer: left lung", "left lung"),
        ("Some thoughts.\nFINAL ANSWER: left lung\n", "left lung"),
        ("Answer:\n\nleft lung\n\nIt lies above.", "left lung"),
        ("**Answer:** left lung", "left lung"),
        ("**Answer**: left lung", "left lung"),
        ("The answer is **left lung**.", "left lung."),
        ("**Final answer: left lung**", "left lung"),
        ("The answer is: `left lung`", "left lung"),
        ("At first the answer is heart. No: the answer is left lung", "left lung"),
        ("The answer is 2*3", "2*3"),
        ("The answer is A*", "A*"),
        ("The answer is St. Louis", "St. Louis"),
        ("The answer is", "The answer is"),
        ("Answer:  \n ", "Answer:  \n "),
        ("I have no answers: none", "I have no answers: none"),
        ("The answers are many", "The answers are many"),
        ("", ""),
    ],
)
def test_the_answer_span(reply: str, answer: str) -> None:
    assert answer_span(reply) == answer


one_line = (
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="*`"), min_size=1)
    .map(str.strip)
    .filter(bool)
)


@given(answer=one_line.filter(lambda text: "answer" not in text.lower() and not text.startswith(":")), before=st.text())
def test_what_is_stated_last_is_recovered(answer: str, before: str) -> None:
    for closer in ("The direct answer is:", "answer:", "Final Answer:", "So the answer is"):
        assert answer_span(f"{before}\n{closer} {answer}") == answer


REPLIES_FOR_B = [
    "B", "b", "(B)", "B.", "B)", "(B).", "**B**", "B:", "lung", "Lung.", "B. lung", "(B) Lung", "**B. lung**",
    "The answer is B.", "The answer is (B).", "The correct answer is: B", "Answer: B", "**Answer:** B",
    "The lung lies above.\nAnswer: lung", "It is not A. The answer is B because A is too low.",
    "The answer is B. It shows air.", "The answer is **lung**.", "Final answer: B\nThe answer is B.",
    "B\n\nIt shows air.", "(B) lung\nIt shows air.", "B because it shows air", "Lung. It shows air.",
    "A lung is seen.\n**Answer: B**", "Option B", "option b.", "[B]", "B, because it shows air", "B, lung", "B - lung",
    "The lung", "The answer is the lung.", '"B"', 'The answer is "B".', "“lung”", "The correct option is B.",
    "The best choice is option (B).", "The answer would be B", "The answer should be (B) lung.", "B。", "B：lung",
    "B. lung\nA. liver is too low.", "B. It shows air.", "B. lung. It shows air.",
    "答案是B", "正确答案：B。", "选项B", "答案是 (B)。因为它在上面。", "B。因为它在上面。",
]  # fmt: skip


@pytest.mark.parametrize("reply", REPLIES_FOR_B)
def test_an_option_is_read(reply: str) -> None:
    assert Options(ORGANS).parse(reply) == 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "E",
        "B or C",
        "B. heart",
        "B. heart. It beats.",
        "I think B",
        "lungs",
        "The answer is not B.",
        "A lung",
        "BB",
        "spleen",
        "?",
        "The answer is A. The answer is B.",
        "The answer is B, C or D",
        "A\nThe answer is unclear",
        "(lung",
        "A. liver\nB. lung\nC. left kidney\nD. heart",
        "B\nC",
        "A, B",
        "B, liver",
        "A - heart",
        "The first option is B",
        "B. coli is seen",
        "A. liver B. lung C. left kidney D. heart",
        "B. Heart. It beats.",
    ],
)
def test_an_option_is_never_guessed(reply: str) -> None:
    assert Options(ORGANS).parse(reply) is None


def test_what_states_nothing_contradicts_nothing() -> None:
    """A rationale may speak of the answer before the closer gives it."""
    assert Options(ORGANS).parse("The answer is clear from the scan.\nIn short, the answer is: B") == 1
    assert Options(ORGANS).parse("The answer is not A.\nThe answer is B.\nThe answer is C.") is None
    assert parse_yes_no("The answer is clear from the scan. So the answer is: no") == "no"


def test_options_that_differ_in_case_only_are_kept_apart() -> None:
    genotypes = Options(["FF", "Ff", "ff"])
    assert [genotypes.parse(reply) for reply in ("FF", "Ff", "ff", "fF")] == [0, 1, 2, None]


def test_an_options_text_wins_over_a_letter() -> None:
    assert Options(["B", "A"]).parse("A") == 1


@pytest.mark.parametrize("reply", ["B", "The lung", "B: The lung", "B. the lung"])
def test_options_with_labels_of_their_own(reply: str) -> None:
    options = Options([" A: The liver", " B: The lung"])
    assert options.texts == ("The liver", "The lung")
    assert options.parse(reply) == 1


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("Yes", "yes"), ("no.", "no"), ("No, it is clear.", "no"), ("**Yes**", "yes"), ("The answer is no.", "no"),
        ("Yes\nIt is.", "yes"), ("The lungs are normal", None), ("No lesion is seen", None), ("nothing", None),
        ("yesterday", None), ("The answer is yes. The answer is no.", None), ("A", None),
        ("Judging by the shape, yes.", "yes"), ("Yes, though there is no, or little, air.", "yes"),
        ("It could be yes, it could be no.", None), ("Yes, at first sight. The answer is: no", "no"),
        ("Yes. I answer: it is round", "yes"), ("YES!", "yes"), ("", None), ("knows yes-men", None),
        ("Yes there is a lesion", "yes"), ("No there is none", "no"), ("No - it is clear", "no"), ('"Yes"', "yes"),
        ("Answer: Yes it is", "yes"), ("No evidence of a lesion", None), ("Yes-men", None), ("No one", None),
        ("Yes or no", None), ("yes/no", None), ("The answer is yes or no.", None), ("Yes or no? I say no.", "no"),
        ("Yes and no.", None), ("Yes No", None), ("Yes no lesion", None), ("Yes\nNo lesion is seen", "yes"),
    ],
)  # fmt: skip
def test_yes_and_no(reply: str, word: str | None) -> None:
    assert parse_yes_no(reply) == word
    index = Options(["Yes", "No"]).parse(reply)
    if reply != "A":
        assert (None if index is None else ("yes", "no")[index]) == word


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("35", 35), ("-3.5", -3.5), ("about 12 or 13", 12), ("1,234,567.5 people", 1234567.5), ("35%", 0.35),
        ("35 % of it", 0.35), (".5", 0.5), ("1e3", 1000), ("$4.20", 4.2), ("In 2010 the answer is: 7 cm", 7),
        ("0", 0), ("0.0", 0), ("3.", 3), ("−3", -3), ("5kg", 5), ("10-15", 10),
        ("1,5", None), ("12,3456", None), ("1.200,50", None), ("1/2", None), ("1.2.3", None), ("1e3,5", None),
        ("", None), ("none", None), ("H2O", None), ("nan", None), ("Infinity", None), ("1e999", None), ("B2", None),
    ],
)  # fmt: skip
def test_the_first_number(reply: str, number: float | None) -> None:
    assert parse_number(reply) == number


def test_a_whole_number_is_nothing_but_the_number() -> None:
    assert whole_number(" 1,200 ") == 1200
    assert whole_number("35%") == 0.35
    assert whole_number("35 cm") is None


@pytest.mark.parametrize(
    ("reply", "box"),
    [
        ("[1, 2, 3, 4]", (1, 2, 3, 4)),
        ("It is at (0.1 0.2 0.3 .4), I think", (0.1, 0.2, 0.3, 0.4)),
        ("[1;2;-3;4.5]", (1, 2, -3, 4.5)),
        ("[cat] [1, 2] [5, 6, 7, 8] [1, 2, 3, 4]", (5, 6, 7, 8)),
        ("[1, 2, 3, 4] first, but the answer is [5, 6, 7, 8]", (5, 6, 7, 8)),
        ("1, 2, 3, 4", None),
        ("[1, 2, 3]", None),
        ("[1, 2, 3, 4, 5]", None),
        ("[nan, 0, 1, 1]", None),
        ("", None),
    ],
)
def test_the_first_box(reply: str, box: tuple[float, ...] | None) -> None:
    assert parse_box(reply) == box


def test_plain_text() -> None:
    assert plain("  Left \n LUNG. ") == "left lung"
    assert plain(".") == "."


@pytest.mark.parametrize(
    "piece",
    [
        "answer is ",
        "answer:",
        "(",
        "[1 ",
        "1",
        "1,",
        "yes",
        "no ",
        "*",
        " ",
        "a. ",
        "\n",
        "%",
        '"',
        "B\n",
        "1e",
        "yes or ",
    ],
)
def test_a_megabyte_is_read_in_no_time(piece: str) -> None:
    """A pattern of quadratic cost would run into the suite's time-out here."""
    reply = piece * (1_000_000 // len(piece)) + "?"
    options = Options([*ORGANS, *string.ascii_lowercase])
    for read in (answer_span, parse_yes_no, parse_number, parse_box, options.parse):
        read(reply)
