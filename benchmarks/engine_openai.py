"""How fast the openai engine asks a server, as a ratio to a bare asyncio + httpx loop.

Both keep 64 requests in flight against the same server: a process of its own that answers at once, on bare asyncio
protocols, so that it waits for the client and not the client for it. Each of 1,000 chat requests carries a JPEG of
8 kB. The bare loop does what the work needs and no more: it encodes the image, builds the body, writes it with orjson,
posts it, reads the text with orjson, and holds all texts in memory; no retry, no order to keep while it runs, no
deadline but httpx's, no bound. It is measured twice: with one httpx client for all requests, as one writes it, and
with one client for each request in flight, as the engine does it, because httpx looks at all of a client's connections
for each of them. Prints engine requests/s ÷ bare requests/s for both: the median of five pairs, and the pairs.
"""

from __future__ import annotations

import asyncio
import base64
import io
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection

import httpx
import numpy
import orjson
from PIL import Image

from mmkit.engines import Request
from mmkit.engines.openai import OpenAiEngine
from mmkit.images import LoadedImage, load

NUM_ROWS = 1000
IN_FLIGHT = 64
TEXT = ("A red circle to the left of a blue square, on a white ground. " * 4).strip()


class Stub(asyncio.Protocol):
    """Answers every POST with the same chat completion; reads no more of it than where it ends."""

    BODY = orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 60, "total_tokens": 150},
        }
    )
    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = bytearray()
        self._length = 0

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._whole():
            del self._received[: self._length]
            self._length = 0
            self._transport.write(self.ANSWER)

    def _whole(self) -> bool:
        if not self._length:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self._received[:end]).lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            self._length = end + 4 + size
        return len(self._received) >= self._length


def serve(ready: Connection) -> None:
    """Run the stub and tell its port."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def picture(number: int) -> LoadedImage:
    """A photo-like JPEG of about 8 kB."""
    noise = numpy.random.default_rng(number).integers(0, 255, (28, 28, 3), dtype=numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((224, 224)).save(buffer, format="JPEG", quality=85)
    return load({"bytes": buffer.getvalue()})


def questions() -> list[tuple[str, LoadedImage]]:
    """What both sides are given."""
    pictures = [picture(number) for number in range(50)]
    return [(f"What is in picture {number}?", pictures[number % len(pictures)]) for number in range(NUM_ROWS)]


def by_hand(base_url: str, asked: Sequence[tuple[str, LoadedImage]], num_clients: int) -> list[str]:
    """What a script does: 64 requests at a time, spread over `num_clients` clients."""

    async def run() -> list[str]:
        clients: asyncio.Queue[httpx.AsyncClient] = asyncio.Queue()
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        headers = {"Content-Type": "application/json"}
        tls = httpx.create_ssl_context()
        async with AsyncExitStack() as stack:
            made = [
                httpx.AsyncClient(timeout=120, limits=limits, headers=headers, verify=tls) for _ in range(num_clients)
            ]
            for number in range(IN_FLIGHT):
                clients.put_nowait(made[number % num_clients])
            for client in made:
                await stack.enter_async_context(client)

            async def one(text: str, image: LoadedImage) -> str:
                client = await clients.get()
                try:
                    uri = f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"
                    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": text}]
                    body = {"model": "m", "messages": [{"role": "user", "content": parts}], "max_tokens": 256}
                    response = await client.post(f"{base_url}/chat/completions", content=orjson.dumps(body))
                    return str(orjson.loads(response.content)["choices"][0]["message"]["content"])
                finally:
                    clients.put_nowait(client)

            return await asyncio.gather(*(one(text, image) for text, image in asked))

    return asyncio.run(run())


def by_engine(base_url: str, asked: Sequence[tuple[str, LoadedImage]]) -> list[str]:
    """What mmkit does."""
    engine = OpenAiEngine("m", [base_url], max_in_flight=IN_FLIGHT)
    requests = (
        Request(
            str(number), number, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}], [i]
        )
        for number, (text, i) in enumerate(asked)
    )
    return [reply.text for reply in engine.generate(requests)]


def rate(run: Callable[[], list[str]]) -> float:
    """Requests a second. Raises RuntimeError where a reply is missing or wrong."""
    began = time.perf_counter()
    texts = run()
    took_s = time.perf_counter() - began
    if texts != [TEXT] * NUM_ROWS:
        raise RuntimeError("not every reply is there")
    return NUM_ROWS / took_s


def compare(label: str, bare: Callable[[], list[str]], ours: Callable[[], list[str]]) -> None:
    """Print the median ratio of five interleaved pairs."""
    rates = [(rate(bare), rate(ours)) for _ in range(5)]
    ratios = [mine / plain for plain, mine in rates]
    plain = statistics.median(plain for plain, _ in rates)
    print(
        f"openai engine ÷ {label}, requests/s at {IN_FLIGHT} in flight: {statistics.median(ratios):.2f} "
        f"(pairs {' '.join(f'{ratio:.2f}' for ratio in ratios)}; bare {plain:.0f}/s)",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    asked = questions()
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    base_url = f"http://127.0.0.1:{here.recv()}/v1"
    by_engine(base_url, asked[:200])
    for label, num_clients in (("bare asyncio + httpx", 1), (f"the same with {IN_FLIGHT} clients", IN_FLIGHT)):
        by_hand(base_url, asked[:200], num_clients)
        compare(label, lambda n=num_clients: by_hand(base_url, asked, n), lambda: by_engine(base_url, asked))
    process.terminate()
    process.join()


if __name__ == "__main__":
    main()
