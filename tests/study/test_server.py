"""The page's server, asked as a browser and as a stranger would."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest
from starlette.testclient import TestClient
from study.conftest import MARKUP

from unclip.study import votes as votes_module
from unclip.study.app import build_app
from unclip.study.desk import Desk
from unclip.study.order import left_arm
from unclip.study.study import load_study
from unclip.study.votes import Votes


@pytest.fixture
def votes(tmp_path):
    found = Votes(tmp_path / "v.sqlite")
    yield found
    found.close()


@pytest.fixture
def client(study, votes):
    """Makes a browser; with a token that of a study on an open address."""

    def visit(token=None, enough=None, base="http://127.0.0.1:7870"):
        app = build_app(study, Desk(study, votes, enough), token=token, hosts=["127.0.0.1"])
        return TestClient(app, base_url=base, raise_server_exceptions=False)

    return visit


def enter(browser, name="Ada", **more):
    return browser.post("/api/rater", json={"name": name, **more})


def test_a_rater_votes_through_the_whole_study(client, study, votes):
    browser = client()
    assert browser.get("/api/state").json()["rater"] is None
    state = enter(browser).json()
    assert (state["rater"], state["done"], state["total"]) == ("Ada", 0, 69)
    while state["pairs"]:
        shown = state["pairs"][0]
        pair = study.pairs[shown["id"]]
        left = left_arm(study, "Ada", pair)
        assert (shown["left"], shown["right"]) == (
            (pair.a, pair.b) if left == "a" else (pair.b, pair.a)
        )
        answer = "left" if left == "a" else "right"
        done = state["done"]
        state = browser.post("/api/vote", json={"pair": pair.id, "answer": answer}).json()
        assert (state["done"], state["total"]) == (done + 1, 69)
        assert state["last"]["id"] == pair.id
        assert state["last"]["answer"] == answer
    assert [vote.answer for vote in votes.all()] == ["a"] * 69


def test_what_a_browser_gets_names_no_side_no_catch_and_no_caption_that_is_not_asked_about(
    client, study
):
    state = enter(client()).json()
    for shown in state["pairs"]:
        assert set(shown) == {"id", "ask", "caption", "grid", "left", "right"}
        asks_caption = study.pairs[shown["id"]].question == "caption"
        assert (shown["caption"] is not None) == asks_caption


def test_images_are_served_by_name_and_nothing_else_is(client, study):
    browser = client()
    pair = next(iter(study.pairs.values()))
    found = browser.get(f"/image/{pair.a}.png")
    assert found.content == study.image(pair.a).read_bytes()
    for path in (
        "../manifest.json",
        "..%2fmanifest.json",
        "%2e%2e%2fpairs.jsonl",
        "/etc/hostname",
        "..%5cmanifest.json",
        f"{pair.a}",
        f"{pair.a}.png%00",
        "manifest.json",
    ):
        assert browser.get(f"/image/{path}").status_code == 404, path
    for path in ("/pairs.jsonl", "/page/page.js", "/votes.sqlite", "/docs", "/api/report"):
        assert browser.get(path).status_code == 404, path


def test_a_vote_needs_a_rater_a_pair_and_an_answer(client, study, votes):
    browser = client()
    pair = next(iter(study.pairs))
    good = {"pair": pair, "answer": "left"}

    def status(body, **more):
        return browser.post("/api/vote", json=body, **more).status_code

    assert status(good) == 401
    enter(browser)
    assert status({**good, "pair": "none"}) == 404
    assert status({**good, "pair": ["none"]}) == 404
    assert status({**good, "answer": "a"}) == 400
    assert status({**good, "answer": None}) == 400
    assert status([good]) == 400
    assert status({**good, "seconds": "x" * 9000}) == 413
    assert status(good, headers={"content-type": "text/plain"}) == 415
    assert browser.post("/api/vote", content="{", headers=JSON).status_code == 400
    assert browser.post("/api/vote", content="[" * 4000, headers=JSON).status_code == 400
    assert votes.all() == []
    for seconds in (-1, 1e300, True, "1", None, 3.5):
        assert status({**good, "seconds": seconds}) == 200
    assert [vote.seconds for vote in votes.all()] == [3.5]


JSON = {"content-type": "application/json"}


def test_nobody_votes_in_the_name_of_another(client, votes):
    ada, other = client(), client()
    code = enter(ada).json()["code"]
    assert enter(other).status_code == 409
    assert enter(other, code="nonsense").status_code == 403
    assert enter(other, name="Grace", code=code).status_code == 403
    assert other.get("/api/state").json()["rater"] is None
    again = enter(other, name="ada", code=f" {code.upper()} ")
    assert again.json()["rater"] == "Ada"
    pair = again.json()["pairs"][0]["id"]
    vote = {"pair": pair, "answer": "left", "rater": "Grace"}
    assert other.post("/api/vote", json=vote).status_code == 409
    assert votes.all() == []
    assert other.post("/api/leave", json={}).json()["rater"] is None
    assert other.get("/api/state").json()["rater"] is None
    assert ada.get("/api/state").json()["rater"] == "Ada"
    assert ada.get("/api/state").json()["code"] == code


@pytest.mark.parametrize("name", [None, 3, "", " ", "x" * 61, "a\u202eb", ["Ada"]])
def test_what_is_no_name(client, name):
    assert enter(client(), name=name).status_code == 400


def test_without_the_link_an_open_address_shows_nothing(client, study):
    token = "t" * 22
    pair = next(iter(study.pairs.values()))
    stranger = client(token)
    paths = ("/", "/api/state", f"/image/{pair.a}.png", "/page.js", f"/page.js?token={token}")
    for path in (*paths, "/?token=", "/?token=tt", "/?token=%ff"):
        assert stranger.get(path).status_code == 403, path
    assert enter(stranger).status_code == 403
    guest = client(token)
    assert guest.get(f"/?token={token}").url.path == "/"
    assert [guest.get(path).status_code for path in paths] == [200] * 5
    assert enter(guest).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "evil:7870"])
def test_another_name_that_leads_here_is_refused(client, host):
    assert client().get("/api/state", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7870", "localhost", "LOCALHOST:7870", "[::1]:7870"])
def test_this_machine_is_answered(client, host):
    assert client().get("/api/state", headers={"host": host}).status_code == 200


def test_no_page_may_run_or_load_what_is_not_its_own(client):
    browser = client()
    for path in ("/", "/page.js", "/api/state", "/none"):
        found = browser.get(path).headers
        assert found["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in found["content-security-policy"]
        assert found["x-content-type-options"] == "nosniff"
    cookie = enter(browser).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie  # strict ones do not come along from a mail's link
    script = browser.get("/page.js").text
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


def test_a_caption_that_is_markup_arrives_as_text(client, study):
    caption = {pair.caption for pair in study.pairs.values()}
    assert MARKUP in caption or len(caption) == 20
    assert MARKUP not in client().get("/").text


def test_while_votes_cannot_be_written_the_page_is_told_to_try_again(
    study, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(votes_module, "PATIENCE", 0.01)
    votes = Votes(tmp_path / "v.sqlite")
    app = build_app(study, Desk(study, votes), token=None, hosts=[])
    browser = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    vote = {"pair": enter(browser).json()["pairs"][0]["id"], "answer": "left"}
    other = sqlite3.connect(tmp_path / "v.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    found = browser.post("/api/vote", json=vote)
    assert (found.status_code, "error" in found.json()) == (503, True)
    other.execute("COMMIT")
    other.close()
    assert browser.post("/api/vote", json=vote).status_code == 200
    assert len(votes.all()) == 1
    votes.close()


def test_another_study_has_cookies_of_its_own(study, votes, tmp_path):
    shutil.copytree(study.folder, tmp_path / "s")
    file = tmp_path / "s/manifest.json"
    manifest = json.loads(file.read_text())
    text = (tmp_path / "s/pairs.jsonl").read_text().replace("caption 7", "caption seven")
    (tmp_path / "s/pairs.jsonl").write_text(text)
    from unclip.common.hashing import file_sha256

    manifest["pairs_sha256"] = file_sha256(tmp_path / "s/pairs.jsonl")
    file.write_text(json.dumps(manifest))
    other = load_study(tmp_path / "s")
    found = set()
    for each in (study, other):
        app = build_app(each, Desk(each, votes), token=None, hosts=[])
        reply = enter(TestClient(app, base_url="http://localhost"), name=each.folder.name[:1] * 3)
        found |= {cookie.name for cookie in reply.cookies.jar}
        votes._open.execute("DELETE FROM raters")
    assert len(found) == 2
