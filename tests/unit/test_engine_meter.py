"""The meter on an engine: tokens and money in the summary are those of the replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mmkit.engines import Choice, Reply, Request, Usage
from mmkit.engines.meter import Metered


class Fixed:
    """Answers everything at the same price."""

    window = 7
    model = "fixed"

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            yield Reply(request.id, "yes", usage=Usage(1000, 600, 100))

    def choose(self, requests: Iterable[Request], choices: Sequence[str]) -> Iterator[Choice]:
        for request in requests:
            yield Choice(request.id, dict.fromkeys(choices, -1.0), usage=Usage(1000, 0, 0))

    def close(self) -> None:
        pass


def test_the_meter_adds_up_tokens_and_money() -> None:
    metered = Metered(Fixed(), price_in=2.0, price_out=10.0)
    asked = [Request(id=str(n), position=n) for n in range(5)]
    assert [reply.text for reply in metered.generate(asked)] == ["yes"] * 5
    assert len(list(metered.choose(asked[:2], ["a", "b"]))) == 2
    assert metered.line() == "7 replies, 7,000 prompt (3,000 image) + 500 completion tokens, cost 0.0190"


def test_the_meter_is_transparent() -> None:
    metered = Metered(Fixed())
    assert (metered.window, metered.model) == (7, "fixed")
    assert "cost" not in metered.line()
