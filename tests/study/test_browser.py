"""A study done in a real browser by scripts with a known taste."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from study.conftest import MARKUP

from unclip.study.questions import SIDES
from unclip.study.results import evaluate_votes
from unclip.study.study import VOTES, load_study
from unclip.study.votes import Votes

CHROMIUM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
PATIENCE = 60_000  # milliseconds, on a machine that has other things to do

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


class Serving:
    """`unclip study serve`, which can be killed and started again at the same port."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder.parent / "stderr"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self, *more):
        root = Path(__file__).parents[2]
        words = ["study", "serve", str(self.folder), "--port", str(self.port), *more]
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unclip", *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"},
            )
        self.said = self.process.stdout.readline().strip()
        assert more or self.said == self.address, self.log.read_text()

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def serving(study, tmp_path):
    shutil.copytree(study.folder, tmp_path / "s")
    found = Serving(tmp_path / "s")
    found.start()
    yield found
    if found.process.poll() is None:
        assert found.end() == 0
    assert found.log.read_text() == ""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def visit(serving, browser):
    """Opens the page in a browser of its own; its server alone may be asked for anything."""
    contexts, hosts, problems = [], set(), []

    def open_page(*, phone=False, context=None):
        size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
        if context is None:
            context = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(serving.address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert hosts == {urlsplit(serving.address).netloc}
    assert problems == []


def enter(page, name):
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Start").click()
    ready(page)


def ready(page):
    """Wait for the next pair, or the end; whether there is one."""
    page.locator("#vote:not([hidden]):not(.waiting), #end:not([hidden])").wait_for()
    return page.locator("#vote").is_visible()


def side_of_a(page, study):
    """Where the image of A is, as the script knows from the study."""
    of_a = {pair.a for pair in study.pairs.values()}
    names = {s: Path(page.locator(f"#{s}-image").get_attribute("src")).stem for s in SIDES}
    [found] = [side for side, name in names.items() if name in of_a]
    return found


def count(page):
    return int(re.match(r"\d+", page.locator("#count").inner_text())[0])


def press(page, side, how):
    from playwright.sync_api import expect

    before = page.locator("#count").inner_text()
    if how == "keys":
        page.keyboard.press(
            {"left": "ArrowLeft", "right": "ArrowRight", "unsure": "ArrowDown"}[side]
        )
    else:
        page.locator(f"#{side}").tap()
    expect(page.locator("#count")).not_to_have_text(before)


def votes_in(folder):
    votes = Votes(folder / VOTES)
    found = votes.all()
    votes.close()
    return found


def test_a_study_of_60_pairs_by_two_raters_whose_taste_the_report_finds(visit, serving):
    study = load_study(serving.folder)
    ada = visit()
    enter(ada, "Ada")
    left = dict.fromkeys(SIDES, 0)
    while ready(ada):
        side = side_of_a(ada, study)
        left[side] += 1
        asks_caption = "caption" in ada.locator("#ask").inner_text()
        assert ada.locator("#caption").is_visible() == asks_caption
        press(ada, side, "keys")
    assert min(left.values()) >= 20
    assert "all 69 questions" in ada.locator("#end").inner_text()
    grace = visit(phone=True)
    enter(grace, "Grace")
    while ready(grace):
        width = grace.evaluate("document.documentElement.scrollWidth")
        assert width == 390
        diverse = "diverse" in grace.locator("#ask").inner_text()
        catches = {p.a for p in study.pairs.values() if p.catch}
        a = side_of_a(grace, study)
        shown = Path(grace.locator(f"#{a}-image").get_attribute("src")).stem
        other = "right" if a == "left" else "left"
        known = diverse or shown in catches
        press(grace, a if known else other, "touch")
    found = evaluate_votes(study, votes_in(serving.folder))
    verdicts = {each.question: each.verdict for each in found.results}
    assert verdicts["diversity"] == "a"
    assert found.results[-1].agreement.alpha is None  # all said the same
    assert verdicts["photorealism"] == verdicts["caption"] == "not told apart"
    assert [rater.votes for rater in found.raters] == [69, 69]
    assert not any(rater.excluded for rater in found.raters)


def test_a_closed_tab_a_vote_sent_twice_and_a_killed_server_lose_and_add_nothing(
    visit, serving, study
):
    page = visit()
    enter(page, "Ada")
    for _ in range(3):
        press(page, "left", "keys")
        ready(page)
    page.keyboard.press("ArrowLeft")
    context = page.context
    page.close()  # at once
    page = visit(context=context)
    assert ready(page)
    assert count(page) == len(votes_in(serving.folder)) == 4

    with page.expect_request("**/api/vote") as sent:
        press(page, "right", "keys")
    body, headers = sent.value.post_data, {"Content-Type": "application/json"}
    for _ in range(2):
        again = page.request.post(f"{serving.address}/api/vote", data=body, headers=headers)
        assert again.ok
    assert len(votes_in(serving.folder)) == 5

    ready(page)
    assert serving.end(signal.SIGKILL) == -signal.SIGKILL
    page.keyboard.press("ArrowRight")
    page.get_by_text("not saved yet").wait_for()
    page.close()  # while the vote waits
    serving.start()
    page = visit(context=context)
    assert ready(page)
    page.locator("#count").filter(has_text="6 of 69").wait_for()
    assert len(votes_in(serving.folder)) == 6


def test_back_changes_an_answer(visit, serving, study):
    page = visit()
    enter(page, "Ada")
    press(page, "left", "keys")
    ready(page)
    page.reload()
    ready(page)
    page.keyboard.press("Backspace")
    page.locator("#left.chosen").wait_for()
    ready(page)
    page.keyboard.press("ArrowDown")
    page.locator("#unsure:not(.chosen)").wait_for()
    ready(page)
    assert [vote.answer for vote in votes_in(serving.folder)] == ["unsure"]
    assert count(page) == 1


def test_the_second_rater_of_one_browser_and_names_that_are_taken(visit, serving):
    page = visit()
    enter(page, "Ada")
    code = page.locator("#own-code code").inner_text()
    other = visit()
    other.get_by_label("Your name").fill("ada")
    other.get_by_role("button", name="Start").click()
    other.get_by_text("has been taken").wait_for()
    other.get_by_label("Your code").fill(code)
    other.get_by_role("button", name="Start").click()
    assert ready(other)
    tab = visit(context=page.context)
    ready(tab)
    tab.get_by_role("button", name="Somebody else votes now").click()
    enter(tab, "Grace")
    page.keyboard.press("ArrowLeft")  # Ada's page, but Grace's browser by now
    page.get_by_text("Somebody else votes in this browser now").wait_for()
    assert votes_in(serving.folder) == []


def test_markup_in_captions_and_names_is_text(visit, study):
    page = visit()
    enter(page, "<img src=x onerror=alert(1)>")
    assert page.locator("#who").inner_text() == "<img src=x onerror=alert(1)>"
    seen = []
    while ready(page):
        if page.locator("#caption").is_visible():
            seen.append(page.locator("#caption").inner_text())
        press(page, "left", "keys")
    assert f"“{MARKUP}”" in seen
    assert page.title() == "Which one?"


def test_a_link_on_another_site_leads_in(study, tmp_path, browser):
    shutil.copytree(study.folder, tmp_path / "s")
    serving = Serving(tmp_path / "s")
    serving.start("--host", "0.0.0.0")
    link = f"{serving.address}/{urlsplit(serving.said)._replace(scheme='', netloc='').geturl()[1:]}"
    mail = {"content_type": "text/html", "body": f"<a href='{link}'>study</a>"}
    try:
        with browser.new_page() as page:
            page.set_default_timeout(PATIENCE)
            page.route("http://mail.example/", lambda route: route.fulfill(**mail))
            page.goto("http://mail.example/")
            page.get_by_role("link").click()
            enter(page, "Ada")
            assert page.url == f"{serving.address}/"
    finally:
        assert serving.end() == 0
