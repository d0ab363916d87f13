"""Image files as shops have them, and tables that name them."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from reranker.data_config import TablesData

COLOURS = {"red": (250, 20, 10), "green": (10, 240, 30), "blue": (20, 10, 250), "white": (255, 255, 255)}


def draw(path: Path, colour: str = "red", size: tuple[int, int] = (64, 48)) -> Path:
    """A file of one colour, in the format that its name says."""
    Image.new("RGB", size, COLOURS[colour]).save(path)
    return path


def noise(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A file that differs from each other one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def shop(folder: Path, cells: dict[str, str], **values: object) -> TablesData:
    """Tables of these items and where each one's image is, and of four users who touch them: all of up to four items,
    three quarters of more."""
    (folder / "clicks.csv").write_text(
        "user_id,item_id,timestamp\n"
        + "".join(
            f"u{user},{item},{(user + place) % len(cells)}\n"
            for user in range(4)
            for place, item in enumerate(cells)
            if len(cells) <= 4 or place % 4 != user
        ),
        encoding="utf-8",
    )
    (folder / "items.csv").write_text(
        "item_id,text,image_path\n" + "".join(f"{item},Item {item},{cell}\n" for item, cell in cells.items()),
        encoding="utf-8",
    )
    tables = {"interactions": folder / "clicks.csv", "items": folder / "items.csv", "min_user": 3, "min_item": 1}
    return TablesData.model_validate({**tables, "images": {}, **values})


@contextlib.contextmanager
def serving(answers: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server of these paths: its address, and the paths that it was asked for; others are not found."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: object) -> None:
            """Nothing: a test's output is its own."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
