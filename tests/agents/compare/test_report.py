"""The report's files: JSON that says everything, pictures that are whole, a page that needs nothing else."""

import itertools
import json
import math
import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import pytest

from gumbelrl.agents.compare.__main__ import main
from gumbelrl.agents.compare.comparison import compare
from gumbelrl.agents.compare.palette import COLOURS, DASHES, series_colour, series_pattern
from gumbelrl.agents.compare.statistics import Estimate
from gumbelrl.agents.compare.terminal import draw, print_comparison

SVG = "{http://www.w3.org/2000/svg}"


def test_json_holds_every_number_and_every_run(reported, three_policies):
    data = json.loads((reported / "comparison.json").read_text())
    assert (data["format"], data["version"]) == ("gumbelrl comparison", 1)
    assert list(data["environments"]) == ["CartPole-v1", "gumbelrl/DeepSea-v0"]
    (part, _) = data["environments"].values()
    variant = part["variants"]["gumbel"]
    assert variant["seeds"] == list(range(10))
    assert len(variant["final_return"]["sampled"]["seeds"]) == 10
    assert variant["final_return"]["sampled"]["low"] < variant["final_return"]["sampled"]["value"]
    assert variant["steps_to_threshold"]["upper_median"]["high"] is None  # never
    assert len(variant["learning_curve"]["step"]) == len(variant["learning_curve"]["low"]) == 32
    assert len(variant["diagnostics"]) == 6
    assert variant["train_seconds"] == [12.5]
    assert len(part["pairs"]) == 3
    assert part["performance_profile"]["softmax"]["value"][-1] == 0
    assert len(data["across"]["pairs"]) == 3
    assert {run["status"] for run in data["runs"]} == {"finished", "incomplete", "failed"}
    assert len(data["runs"]) == 8
    assert len(data["not_counted"]) == 2
    assert data["conclusions"]


def test_every_picture_is_there_twice_and_says_what_it_shows(reported):
    pictures = sorted((reported / "plots").glob("*.svg"))
    assert len(pictures) == 12 + 8 + 3
    for path in pictures:
        root = xml.etree.ElementTree.parse(path).getroot()
        assert root.get("role") == "img"
        assert root.find(f"{SVG}title").text
        assert len(root.find(f"{SVG}desc").text) > 20
        assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
        text = path.read_text()
        used = set(re.findall(r"var\(--([\w-]+)\)", text))
        assert used <= set(COLOURS)
        assert not re.search(r"(fill|stroke): #(?!fff)", text), f"{path}: a colour that is the same in light and dark"


def test_the_page_needs_nothing_else(reported):
    text = (reported / "report.html").read_text()
    links = re.findall(r'(?:src|href|data)="([^"#][^"]*)"', text)
    assert set(links) <= {"data:,"}
    assert not re.search(r"@import|<script|url\((?!#)", text)
    assert len(text.encode()) < 1_500_000


class Structure(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.headings, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []


def test_ids_are_unique_and_references_lead_somewhere(reported):
    text = (reported / "report.html").read_text()
    page = Structure()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    labelled = re.findall(r'aria-labelledby="([^"]+)"', text)
    wanted = {name for names in labelled for name in names.split()} | set(
        re.findall(r'(?:href="|url\()#([^")]+)', text)
    )
    assert wanted <= set(page.ids)
    assert all(after - before <= 1 for before, after in itertools.pairwise(page.headings))


def test_what_runs_are_called_cannot_break_the_page(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.compare.plots.save_plots", lambda comparison, folder: None)
    folder = make_run("a<b>&'\"", policy="softmax", finished=False)
    (folder / "failure.json").write_text(json.dumps({"error": "<script>alert(1)</script>"}))
    assert main([str(make_run("good")), str(folder), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_table_on_the_terminal(three_policies, capsys):
    print_comparison(compare([three_policies]))
    text = capsys.readouterr().out
    assert "\x1b" not in text  # no colours into a file
    for word in (
        "CartPole-v1",
        "reach 475 at step",
        "gumbel – softmax",
        "All environments",
        "not counted",
        "●",
        "never",
    ):
        assert word in text
    assert max(map(len, (line for line in text.splitlines() if "not counted" not in line))) <= 132


def test_a_report_is_made_again_in_its_place_but_over_nothing_else(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.compare.plots.save_plots", lambda comparison, folder: None)
    monkeypatch.setattr("gumbelrl.agents.compare.report.page", lambda comparison: "")
    run = str(make_run("run"))
    assert main([run, "--output", str(tmp_path / "out")]) == 0
    assert main([run, "--output", str(tmp_path / "out"), "--measure", "greedy"]) == 0
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["measure"] == "greedy"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert main([run, "--output", str(tmp_path / "mine")]) == 2
    assert main([str(tmp_path / "missing"), "--output", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert "holds other files" in said
    assert "there is no such folder" in said
    assert not (tmp_path / "new").exists()


def test_an_interval_drawn_as_characters():
    assert draw(Estimate(0.5, 0.0, 1.0), 0.0, 1.0) == "━" * 11 + "●" + "━" * 11
    assert draw(Estimate(0.0, math.nan, math.nan), 0.0, 1.0) == "●" + "·" * 22
    assert "●" in draw(Estimate(5.0, 5.0, 5.0), 5.0, 5.0)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", [name for name in COLOURS if name not in ("paper", "rule")])
def test_text_and_lines_stand_out_from_the_paper(name, theme):
    """WCAG 2.2, 1.4.3: a contrast of 4.5 for text; series name text too where a link or a status has their colour."""
    dark, bright = sorted(luminance(COLOURS[which][theme]) for which in (name, "paper"))
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_no_two_of_thirty_two_series_look_alike():
    assert len({(series_colour(i), series_pattern(i)) for i in range(32)}) == 32
    assert len({series_pattern(i) for i in range(len(DASHES))}) == len(DASHES)
