"""The page as a hostile or unlucky visitor meets it, over HTTP on this machine."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # Gradio's


class SlowStudio(SimpleNamespace):
    """Draws nothing, slowly: ``steps`` steps, or for ever while ``hold`` is set."""

    size = 8
    captioned = inverted = edited = inpainted = ()

    def lacks(self, *, caption):
        return None

    def generate(self, caption, *values, progress):
        self.begun.append(caption)
        try:
            while True:
                progress(1, 2)
                if not self.hold.is_set():
                    break
                time.sleep(0.01)
        finally:
            self.ended.append(caption)
        from unclip.demo.studio import LabelledImage

        return [LabelledImage(np.zeros((8, 8, 3), np.uint8), "seed 0")]

    vary = interpolate = edit = inpaint = generate


@contextmanager
def serving(folder):
    """A served page: its ``url``, ``port``, ``studio``, ``folder`` and ``server``."""
    from unclip.demo import server as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr(module.traceback, "print_exc", module.traceback.print_exc)
        patch.setattr(module.Image, "MAX_IMAGE_PIXELS", module.Image.MAX_IMAGE_PIXELS)
        loop = asyncio.new_event_loop()  # Gradio's locks ask for one
        asyncio.set_event_loop(loop)
        studio = SlowStudio(begun=[], ended=[], hold=threading.Event())
        server = module.build_server(studio, folder, "127.0.0.1", 0, ["gpu.example.org"])
        thread = threading.Thread(target=server.run)
        thread.start()
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{port}",
                port=port,
                studio=studio,
                folder=folder,
                server=server,
            )
        finally:
            server.should_exit = True
            thread.join(30)
            asyncio.set_event_loop(None)
            loop.close()
            gc.collect()  # loops that Gradio leaves, while its warnings are ignored
        assert not thread.is_alive()
        assert not server._desk.owners


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("demo")) as found:
        yield found


@pytest.fixture
def site(shared_site):
    """One server for all tests, without jobs at first."""
    from unclip.demo.server import _jobs

    server, studio = shared_site.server, shared_site.studio
    until(lambda: not server._desk.owners and not _jobs(server._blocks))
    studio.begun.clear()
    studio.ended.clear()
    server._guard._sent.clear()
    yield shared_site
    studio.hold.clear()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def http(site):
    with httpx.Client(base_url=site.url, trust_env=False, timeout=20) as client:
        yield client


def join(http, session, caption="a", **changes):
    config = http.get("/config").json()
    draw = next(d["id"] for d in config["dependencies"] if d["api_name"] == "handle")
    body = {"fn_index": draw, "session_hash": session, "data": [caption, 1, 0]}
    return http.post("/gradio_api/queue/join", json=body | changes)


@contextmanager
def listening(site, session):
    """The messages of a session, as they come."""
    url = f"{site.url}/gradio_api/queue/data"
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        client.stream("GET", url, params={"session_hash": session}) as answer,
    ):
        yield (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))


def test_a_job_is_done_for_who_listens(site, http):
    assert join(http, "ann").status_code == 200
    with listening(site, "ann") as messages:
        done = next(each for each in messages if each["msg"] == "process_completed")
    assert done["success"]
    [drawn] = done["output"]["data"]
    file = drawn["value"][0]["image"]["path"]
    assert http.get(f"/gradio_api/file={file}").content.startswith(b"\x89PNG")


def test_a_job_ends_when_its_visitor_leaves_and_the_next_one_begins(site, http, monkeypatch):
    monkeypatch.setattr("unclip.demo.server.PATIENCE", 1)
    site.studio.hold.set()
    join(http, "ann", "first")
    with listening(site, "ann") as messages:
        next(messages)
        until(lambda: site.studio.begun == ["first"])
        join(http, "bob", "second")
    until(lambda: site.studio.ended[:1] == ["first"])


def test_jobs_to_which_nobody_listens_end_whether_they_run_or_wait(site, http, monkeypatch):
    from unclip.demo.server import _jobs

    site.studio.hold.set()
    join(http, "bob", "bob's")
    with listening(site, "bob") as messages:
        until(lambda: site.studio.begun == ["bob's"])
        for k in range(2):
            join(http, f"ann{k}", str(k))
        monkeypatch.setattr("unclip.demo.server.PATIENCE", 1)
        until(lambda: [job.session_hash for job in _jobs(site.server._blocks)] == ["bob"])
        assert site.studio.ended == []
        site.studio.hold.clear()
        assert next(m for m in messages if m["msg"] == "process_completed")["success"]
        assert site.studio.begun == ["bob's"]
    site.studio.hold.set()
    join(http, "eve", "eve's")
    until(lambda: site.studio.ended == ["bob's", "eve's"])


def test_a_job_that_gradio_alone_cancels_ends_too(site, http):
    site.studio.hold.set()
    event = join(http, "ann").json()["event_id"]
    with listening(site, "ann"):
        until(lambda: site.studio.begun)
        cancel = {"session_hash": "ann", "fn_index": 0, "event_id": event}
        assert http.post("/gradio_api/cancel", json=cancel).status_code == 200
        until(lambda: site.studio.ended, seconds=5)


def test_a_client_has_few_jobs_at_a_time(site, http):
    from unclip.demo.guard import JOBS

    site.studio.hold.set()
    codes = [join(http, f"ann{k}").status_code for k in range(JOBS + 2)]
    assert codes == [200] * JOBS + [429] * 2


def test_the_end_stops_a_job_and_dismisses_listeners(tmp_path, capfd):
    with serving(tmp_path) as site, httpx.Client(base_url=site.url, trust_env=False) as http:
        site.studio.hold.set()
        join(http, "ann")
        with listening(site, "ann") as messages:
            next(messages)
            until(lambda: site.studio.begun)
            site.server.should_exit = True
            list(messages)
    assert site.studio.ended == ["a"]
    assert "".join(capfd.readouterr()) == "http://127.0.0.1:0\n"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", None, 200),
        ("localhost:9", None, 200),  # through a tunnel
        ("[::1]:{port}", None, 200),
        ("192.0.2.1", None, 200),  # a name is rebound, an address is not
        ("GPU.example.org", "https://gpu.example.org", 200),
        ("127.0.0.1:{port}", "https://gpu.example.org", 200),  # a proxy that renames
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 200),
        ("evil.example.org", None, 400),
        ("evil.example.org:{port}", "http://evil.example.org:{port}", 400),
        ("", None, 400),
        ("[::1", None, 400),
        ("gpu.example.org.evil.org", None, 400),
        ("127.0.0.1:{port}", "http://evil.example.org", 403),
        ("127.0.0.1:{port}", "http://127.0.0.1:9", 403),
        ("127.0.0.1:{port}", "null", 403),
    ],
)
def test_only_our_own_hosts_and_pages_are_answered(site, http, host, origin, status):
    head = {"host": host.format(port=site.port)}
    if origin:
        head["origin"] = origin.format(port=site.port)
    answer = http.get("/config", headers=head)
    assert answer.status_code == status
    if status != 200:
        assert len(answer.text.splitlines()) == 1
        assert "access-control-allow-origin" not in answer.headers


def upload(http, *contents):
    files = [("files", (f"{k}.png", content)) for k, content in enumerate(contents)]
    return http.post("/gradio_api/upload", files=files)


def test_bodies_are_bounded(site, http, monkeypatch):
    from unclip.demo import guard

    assert join(http, "ann", "a" * guard.BODY).status_code == 413
    chunks = (b"a" * 2**16 for _ in range(guard.BODY))  # no length is told
    assert http.post("/gradio_api/queue/join", content=chunks).status_code == 413
    assert upload(http, b"a" * guard.FILES).status_code == 413
    assert upload(http, b"a").status_code == 200
    monkeypatch.setattr(guard, "HELD", 1)
    assert upload(http, b"a").status_code == 503


def test_uploads_of_a_client_are_bounded_and_the_oldest_make_room(site, http, monkeypatch):
    from unclip.demo import guard

    monkeypatch.setattr(guard, "STORED", 3000)
    monkeypatch.setattr(guard, "SENT", 9000)
    codes = [upload(http, bytes([k]) * 1000).status_code for k in range(9)]
    assert codes[:6] == [200] * 6
    assert codes[-1] == 429
    kept = [file.read_bytes()[:1] for file in site.folder.rglob("*.png")]
    assert bytes([5]) in kept
    assert bytes([0]) not in kept
    assert len(kept) <= 4


FORM = {"content-type": "multipart/form-data; boundary=b"}
MALFORMED = [
    ("GET", "/gradio_api/queue/data", {}),
    ("GET", "/gradio_api/queue/data?session_hash=none", {}),
    ("GET", "/gradio_api/deep_link?session_hash=ann", {}),
    ("GET", "/gradio_api/file=/etc/hostname", {}),
    ("GET", "/gradio_api/file=http://127.0.0.1:1/", {}),
    ("GET", "/gradio_api/proxy=http://127.0.0.1:1/", {}),
    ("GET", "/gradio_api/file=%00", {}),
    ("GET", "/static/..%2f..%2f..%2fetc/hostname", {}),
    ("DELETE", "/", {}),
    ("POST", "/gradio_api/run/predict", {"json": {"data": [], "fn_index": 0}}),
    ("POST", "/gradio_api/queue/join", {"content": b"{"}),
    ("POST", "/gradio_api/queue/join", {"content": b"[" * 100_000}),
    ("POST", "/gradio_api/queue/join", {"json": {"data": [], "fn_index": 99, "session_hash": "a"}}),
    ("POST", "/gradio_api/queue/join", {"json": {"data": {}, "fn_index": 0, "session_hash": "a"}}),
    ("POST", "/gradio_api/queue/join", {"json": {"data": [], "session_hash": "a"}}),
    ("POST", "/gradio_api/cancel", {"content": b"[]"}),
    ("POST", "/gradio_api/cancel", {"content": b"[" * 100_000}),
    ("POST", "/gradio_api/cancel", {"json": {"session_hash": "\x1b[2J"}}),
    ("POST", "/gradio_api/component_server", {"json": {"data": 1}}),
    ("POST", "/gradio_api/component_server", {"content": b"a", "headers": FORM}),
    ("POST", "/gradio_api/upload", {"content": b"a", "headers": FORM}),
    ("POST", "/gradio_api/upload", {"content": b"a"}),
    ("POST", "/gradio_api/upload", {"data": {"files": "text"}, "files": {"a": b""}}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "given"), MALFORMED)
def test_what_the_page_never_sends_is_refused_without_a_trace(
    site, http, capfd, method, path, given
):
    answer = http.request(method, path, **given)
    if answer.status_code == 200:  # a stream that says so
        assert '"success":false' in answer.text.replace(" ", "")
    assert "Traceback" not in answer.text
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told
    assert "\x1b[2J" not in told


def test_an_example_is_loaded_and_nothing_else_passes_the_queue_by(site, http, capfd):
    """As the page asks for them: by number, without a name."""
    from unclip.demo.page import CAPTIONS

    config = http.get("/config").json()["dependencies"]
    examples = [d["id"] for d in config if str(d["api_name"]).startswith("load_example")]
    queued = [d["id"] for d in config if d["queue"] is not False and d["backend_fn"]]
    assert examples
    assert queued

    def call(number, data):
        given = {"data": data, "fn_index": number, "session_hash": "ann"}
        return http.post("/gradio_api/run/predict", json=given)

    for number in examples:
        answer = call(number, [0])
        assert answer.status_code == 200
        assert answer.json()["data"][0]["value"] == CAPTIONS[0]
        for odd in ([99], ["x"], [None], []):
            assert call(number, odd).status_code != 200
    for number in queued:
        assert call(number, ["a red circle"]).status_code == 404
    assert site.studio.begun == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_job_of_odd_values_fails_without_a_trace(site, http, capfd):
    for k, data in enumerate(
        ([], ["a", "b", {}], [1, [], None], ["a"] * 99, [None, -1, "\x1b[2J"])
    ):
        assert join(http, f"odd{k}", data=data).status_code == 200
        with listening(site, f"odd{k}") as messages:
            done = next(each for each in messages if each["msg"] == "process_completed")
        assert not done["success"]
        assert "Traceback" not in json.dumps(done)
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told
    assert "\x1b[2J" not in told


@pytest.mark.parametrize("path", ["/etc/hostname", "http://127.0.0.1:{port}/config", "../a.png"])
def test_an_upload_that_was_none_is_not_opened(site, http, path):
    config = http.get("/config").json()
    [image, *_] = [c["id"] for c in config["components"] if c["type"] == "image"]
    [vary, *_] = [d["id"] for d in config["dependencies"] if image in d["inputs"] and d["queue"]]
    given = {"path": path.format(port=site.port), "meta": {"_type": "gradio.FileData"}}
    join(http, path, fn_index=vary, data=[given, 1, 1, 0])
    with listening(site, path) as messages:
        done = next(each for each in messages if each["msg"] == "process_completed")
    assert not done["success"]
    assert site.studio.begun == []
    assert not [file for file in site.folder.rglob("hostname")]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_job_ends_the_command_cleanly_behind_a_proxy(cascade, tmp_path, sent):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "unclip", "demo", "--pipeline", cascade, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | proxy | {"TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}\n"
        site = SimpleNamespace(url=f"http://127.0.0.1:{port}")
        with httpx.Client(base_url=site.url, trust_env=False, timeout=60) as http:
            values = ["a red circle", 16, 0, 1, 1, 250, "ddim"]
            assert join(http, "ann", data=values).status_code == 200
            with listening(site, "ann") as messages:
                next(each for each in messages if each["msg"] == "progress")
                process.send_signal(sent)
                list(messages)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    assert not list(tmp_path.iterdir())
