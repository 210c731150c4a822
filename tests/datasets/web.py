"""A web of one file, for tests of downloads."""

import io
import urllib.error
import urllib.request

import pytest


class Response(io.BytesIO):
    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Length": str(len(self.getvalue()))}


def serve(monkeypatch: pytest.MonkeyPatch, data: bytes, asked: list[str] | None = None) -> None:
    """Answer every address with `data`, and note which were asked."""

    def give(url: str, timeout: float) -> Response:
        if asked is not None:
            asked.append(url)
        return Response(data)

    monkeypatch.setattr(urllib.request, "urlopen", give)


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network."""

    def fail(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
