"""A file of weights by its URL: fetched once, continued where it stopped."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.remote import Unreadable
from unclip.weights import download as module
from unclip.weights.download import download
from unclip.weights.hub import open_source

CONTENT = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    """One file, by ranges; ``server.asked`` has the ranges."""

    def do_HEAD(self):
        self._head(200, len(CONTENT))

    def do_GET(self):
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        self.server.asked.append(asked)
        if self.server.fails and int(first) >= self.server.fails:
            self.send_error(404)
            return
        part = CONTENT[int(first) : int(last or len(CONTENT) - 1) + 1]
        self._head(206, len(part), f"bytes {first}-{int(first) + len(part) - 1}/{len(CONTENT)}")
        self.wfile.write(part)

    def _head(self, status, length, span=""):
        if not self.path.endswith("base.pt"):
            self.send_error(404)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", self.server.tag)
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "CHUNK", 100_000)
    monkeypatch.setattr(files, "BLOCK", 1000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.asked, found.fails, found.tag = [], 0, '"one"'
        found.url = f"http://127.0.0.1:{found.server_port}/base.pt"
        Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_it_is_fetched_once(server):
    path = download(server.url)
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-base.pt")
    before = len(server.asked)
    assert download(server.url) == path
    assert len(server.asked) == before


def test_an_interrupted_download_goes_on_where_it_stopped(server):
    server.fails = 200_000
    with pytest.raises(UserError, match="run the same command again"):
        download(server.url)
    server.fails, server.asked = 0, []
    assert download(server.url).read_bytes() == CONTENT
    assert all(int(asked.partition("-")[0]) >= 200_000 for asked in server.asked)


def test_a_file_that_has_changed_since_is_fetched_anew(server):
    server.fails = 200_000
    with pytest.raises(UserError):
        download(server.url)
    server.fails, server.asked, server.tag = 0, [], '"two"'
    assert download(server.url).read_bytes() == CONTENT
    assert any(asked.startswith("0-") for asked in server.asked)


def test_what_is_not_there_is_one_line_and_nothing_is_left(server, tmp_path):
    with pytest.raises(UserError) as error:
        download(server.url.replace("base.pt", "none.pt"))
    assert str(error.value).startswith(server.url.replace("base.pt", "none.pt"))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*none*"))


def test_a_file_that_is_too_large_is_not_begun(server, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="has 256,000 bytes; the most is 10"):
        download(server.url)
    assert not list(tmp_path.rglob("*base*"))


def test_a_source_that_cannot_be_read_is_refused_when_it_is_opened(monkeypatch, tmp_path):
    """Not after a larger one before it was fetched."""
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path))

    def unreadable(url):
        raise Unreadable(url, "does not answer")

    monkeypatch.setattr(module, "stat_file", unreadable)
    url = "https://example.org/base.pt"
    with pytest.raises(UserError, match=f"{url}: does not answer; run the same command again"):
        open_source(url)
    target = module._target(url)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"cached")
    assert open_source(url).path("base.pt").read_bytes() == b"cached"


def test_a_url_is_a_source_of_one_file(monkeypatch):
    monkeypatch.setattr(module, "stat_file", lambda url: files.File(url, 5, ""))
    source = open_source("https://example.org/dec-2021/base.pt")
    assert source.names == ["base.pt"]
    assert source.where("base.pt") == "https://example.org/dec-2021/base.pt"
    assert source.origin == {"source": "https://example.org/dec-2021/base.pt"}
