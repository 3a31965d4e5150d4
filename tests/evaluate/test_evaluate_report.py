"""The report: what it must show, that it asks nothing of the network, and that a student's words cannot act in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data_contracts.refs import Run
from pipeline_config.schema import PipelineConfig
from tasks.evaluate.report import gallery, write_report
from tasks.evaluate.scores import METRICS, summarise

Row = dict[str, Any]
HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)>\"'&{{ 7*7 }}</pre></style>"


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on an element that is closed but not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag, f"</{tag}> closes something else at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile(dialogue: Row) -> str:
    return f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>" if dialogue["sub_task"] != "score" else HOSTILE


@pytest.fixture(scope="module")
def rows(answered: Callable[..., list[Row]]) -> list[Row]:
    return [
        *answered("grpo", lambda dialogue: dialogue["response"]),
        *answered("sft", lambda dialogue: dialogue["response"]),
        *answered("base", hostile),
    ]


@pytest.fixture(scope="module")
def scores(rows: list[Row]) -> dict[str, Any]:
    return summarise(rows, replicates=20, seed=0)


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, config: PipelineConfig, rows: list[Row], scores: dict[str, Any]
) -> str:
    path = write_report(
        tmp_path_factory.mktemp("report") / "reports" / "report.html",
        config=config,
        run=Run("run-<7>", "/home", "mlflow-run"),
        rows=rows,
        scores=scores,
        stages=[
            {"stage": "sft", "seconds": 212.84, "rows": 0, "quarantined": 0, "cached": False, "dataset_id": "d1"},
            {
                **{"stage": "annotate", "seconds": 0.0, "rows": 4968, "quarantined": 122, "cached": True},
                "dataset_id": "d2",
                "notes": {
                    **{"asked": 3100, "accepted": 2400, "not_asked": 17, "tries": 5200.0, "cost": 12.5},
                    **{"asked_choice": 2000, "accepted_share_choice": 0.875},
                },
            },
        ],
        history=[{"step": i, "reward": i / 10, "sampled_entropy": 1.0, "completion_tokens": 9.0} for i in range(1, 6)],
        probe={
            when: {"reward": r, "num_prompts": 64, "num_rollouts": 4} for when, r in (("before", 1.25), ("after", 1.5))
        },
        difficulty=[{"pass_rate": 0.5, "pool": "hard"}, {"pass_rate": 1.0, "pool": "easy"}],
        decision={
            "decision": "refused",
            "reasons": ["too <small>"],
            "model": "m",
            "version": "4",
            "against": "the base",
        },
    )
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


@pytest.fixture(scope="module")
def page(written: str) -> Page:
    return Page(written)


def test_every_score_and_difference_stands_in_a_table(page: Page, scores: dict[str, Any]) -> None:
    text = " ".join(page.text)
    measured = [METRICS[key].title for key in METRICS if key in scores["students"]["grpo"]]
    assert len(measured) >= 12
    for title in measured:
        assert text.count(title) >= 2, title  # a row among the scores, a row among the differences
    for figures in (scores["students"]["grpo"]["composite"], scores["students"]["sft"]["distortion_map"]):
        assert f"{figures['value']:.3f}" in text
        assert f"{figures['low']:.3f} to {figures['high']:.3f}" in text
    assert "GRPO − Base" in text
    assert f"{scores['pairs']['grpo - base']['composite']['mean']:+.3f}" in text
    for said in ("run-<7>", "212.8", "4,968", "122", "cached", "d1", "Version 4 of m", "too <small>", "1.250", "1.500"):
        assert said in text, said
    for said in ("2,400", "3,100", "5,200", "12.50", "17", "choice", "2,000", "0.875"):  # what the teacher gave
        assert said in text, said


def test_every_plot_is_there_with_words_for_who_cannot_see_it(page: Page) -> None:
    labels = [a["aria-label"] or "" for tag, a in page.elements if tag == "figure"]
    for title in (
        "Sum of the six.",
        "GRPO, SRCC 1.00",
        "Mean reward.",
        "Entropy",
        "Tokens per",
        "Mined prompts by difficulty.",
    ):
        assert any(label.startswith(title) for label in labels), title
    assert "running mean" in next(label for label in labels if label.startswith("Mean reward"))
    assert "hard: trained on: 1, easy, kept: 1" in next(label for label in labels if label.startswith("Mined"))


def test_the_gallery_shows_pictures_boxes_and_key_distortions(page: Page, config: PipelineConfig) -> None:
    images = [a for tag, a in page.elements if tag == "img"]
    assert len(images) == config.evaluate.gallery
    assert all((a["src"] or "").startswith("data:image/png;base64,") and a["alt"] for a in images)
    groups = [a["class"] or "" for tag, a in page.elements if tag == "g" and (a.get("class") or "").startswith("box ")]
    assert groups.count("box gold key-distortion") == groups.count("box predicted key-distortion") == len(images)


def test_nothing_is_fetched_and_nothing_can_run(written: str, page: Page) -> None:
    assert not [
        tag for tag, _ in page.elements if tag in {"script", "link", "iframe", "object", "embed", "base", "form"}
    ]
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "action", "poster", "srcset"}:
                assert (value or "").startswith(("data:", "#")), (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", written, re.DOTALL)
    assert style is not None
    assert "@import" not in style.group(1)
    assert "url(" not in style.group(1)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_students_words_are_shown_as_they_are(written: str, page: Page) -> None:
    assert HOSTILE in "".join(page.text)
    assert "<script" not in written
    assert not [a for tag, a in page.elements if tag == "img" and "evil" in (a["src"] or "")]


def test_ids_are_unique_and_what_is_referred_to_exists(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    wanted = [(a.get("href") or a.get("xlink:href") or "") for _, a in page.elements]
    assert {w[1:] for w in wanted if w.startswith("#")} <= set(ids)


def test_what_is_missing_is_said_in_its_place(
    tmp_path: Path, config: PipelineConfig, rows: list[Row], scores: dict[str, Any]
) -> None:
    silent = [{**row, "answer": None, "media_path": "/gone.png"} for row in rows if row["student"] == "base"]
    bare = {"students": {"base": scores["students"]["base"]}, "pairs": {}}
    path = write_report(tmp_path / "r.html", config=config, run=Run("r", "/h", ""), rows=silent, scores=bare)
    text = " ".join(Page(path.read_text()).text)
    for said in ("No history of GRPO steps", "No difficulty table", "No student gave a readable score"):
        assert said in text
    assert "nothing readable" in text


def test_confusion_counts_each_answer_once(rows: list[Row]) -> None:
    mine = [row for row in rows if row["student"] == "grpo"]
    names, columns, counts = gallery.confusion(mine)
    assert names == columns == ["Noise", "Motion blur"]
    asked = [r for r in mine if r["problem_type"] == "region" or r["kind"] == "type"]
    assert counts.sum() == counts.trace() == len(asked)
    names, columns, counts = gallery.confusion([{**row, "answer": "mumble"} for row in asked])
    assert columns[-1] == gallery.UNREAD
    assert counts[:, -1].sum() == len(asked)


def test_pictures_are_spread_over_photographs_and_do_not_depend_on_answers(rows: list[Row]) -> None:
    chosen = gallery.choose_pictures(rows, 6, seed=1)
    photograph_of = {row["sample_id"]: row["source_photograph"] for row in rows}
    assert len({photograph_of[sample] for sample in chosen}) == 6
    wrong = [{**row, "answer": "?", "accuracy": 0.0} for row in rows]
    assert gallery.choose_pictures(wrong, 6, seed=1) == chosen
