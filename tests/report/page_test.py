import json
import re

import lxml.html
import pytest

from electra_cli.loggers.sample_texts import Sample, Token
from electra_cli.report.page import to_html
from electra_cli.report.records import RunSamples, read_runs
from tests.report.common import write_workdir

SAMPLES = RunSamples(
    40,
    (
        Sample(
            (
                Token("the", False, replaced_probability=0.1),
                Token("ch", False, "<b>", True, 0.25, 0.5, 0.75),
                Token("ef", True, replaced_probability=0.6),
                Token("ate", False, "ran", True, 0.125, 0.25, 0.25),
                Token("soup", False, "soup", False, 0.875, 0.875, 0.1),
            )
        ),
    ),
)


def page_of(*paths, samples=None):
    runs = read_runs([str(path) for path in paths])
    html = to_html(runs, samples or [RunSamples()] * len(runs))
    return html, lxml.html.fromstring(html)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    path = write_workdir(tmp_path_factory.mktemp("page") / "run")
    return path, *page_of(path, samples=[SAMPLES])


def values_of(row):
    return [float(data.get("value")) for data in row.iter("data")]


def test_numbers_are_those_of_the_metrics(one):
    path, _, page = one
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("num_examples", None)
    found = {}
    for details in page.findall(".//details[@class='numbers']"):
        names = [cell.text_content() for cell in details.findall(".//th")]
        title = details.find("summary").text_content()
        found[title] = [dict(zip(names, values_of(row), strict=True)) for row in details.findall(".//tbody/tr")]
    titles = {"validation": "Held-out evaluations, 2 lines", "train": "Training, 4 lines", "probe": "Probes, 2 lines"}
    expected = {
        title: [{name: line[name] for name in line if name != "split"} for line in lines if line["split"] == split]
        for split, title in titles.items()
    }
    assert found == expected


def test_the_last_evaluation_with_its_baselines(one):
    _, _, page = one
    rows = {
        row.find("th").text_content(): values_of(row)
        for row in page.findall(".//table[@id='evaluation']/tbody/tr")
        if row.find("td") is not None
    }
    value = 110 / 40
    assert rows["masked_lm_loss"] == [5.0 + value] and rows["loss of guessing by frequency"] == [6.5]
    assert rows["rtd_auc"] == [0.6 + value / 100] and rows["accuracy of calling all original"] == [0.87]
    (probe,) = page.findall(".//table[@id='probes']/tbody/tr")
    assert values_of(probe) == [0.7, 0.3]
    card = page.find(".//article")
    assert "real tokens8,000" in card.text_content() and "complete" in card.text_content()


def test_every_figure_is_described_over_steps_and_over_tokens(one):
    _, _, page = one
    figures = {figure.get("id"): figure for figure in page.iter("figure")}
    assert {"total_loss", "rtd_auc", "learning_rate", "tokens_per_second", "probe/trec/accuracy"} < figures.keys()
    steps, tokens = figures["total_loss"].findall(".//div[@role='img']")
    assert steps.get("aria-label") == (
        "Total loss. run: training 30 at step 10 to 22.5 at step 40; held out 25.5 at step 20 to 22.75 at step 40."
    )
    assert "real tokens" in tokens.text_content() and "step" in steps.text_content()
    assert "Dotted: unigram distribution" in figures["masked_lm_loss"].text_content()
    assert all(figure.findall(".//div[@role='img']") for figure in figures.values())


def test_the_page_loads_nothing_and_its_ids_are_its_own(one):
    _, html, page = one
    assert not re.findall(r'(?:src|href)="(?!#)', html) and "url(http" not in html and "<script" not in html
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html))
    assert used and used <= set(ids)


def test_colours_are_the_themes(one):
    _, html, _ = one
    body = html[html.index("<body>") :]
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(?:url\(#|href="#|id=")[^)"]+', "", body))
    declared = set(re.findall(r"(--[a-z0-9-]+):", html))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", html)) <= declared
    assert html.count("--run-5:") == 2  # light and dark


def test_samples_can_be_read_without_colour(one):
    _, html, page = one
    assert "<b>&lt;" not in html and "&lt;b&gt;" in html  # tokens are text, whatever they hold
    (sample,) = page.findall(".//p[@class='sample']")
    assert " ".join(sample.text_content().split()) == "the ch<b>0.25✓ ef! ateran0.12✗ soup0.88="
    assert [element.text_content() for element in sample.iter("del")] == ["ch", "ate"]
    assert [element.text_content() for element in sample.iter("ins")] == ["<b>", "ran", "soup"]
    assert "replaced with probability 0.75; the generator gives the original 0.500" in html
    assert "the darker the background, the surer it is" in html
    legend = page.find(".//section[@class='samples']//ul").text_content()
    assert all(sign in legend for sign in "✓✗!=") and "≠" not in legend


def test_history_and_config(one):
    _, _, page = one
    history = [" ".join(row.text_content().split()) for row in page.findall(".//ol[@class='history']/li")]
    assert history[2] == "2026-01-02 03:04:02 step 15 ■ stopped by SIGTERM and saved"
    rows = [[cell.text_content() for cell in row] for row in page.iter("tr")]
    assert ["train.num_steps", "1000000", "40"] in rows and ["model.hidden_size", "256"] in rows
    assert "beside the closest preset, small" in page.text_content()


def test_several_runs_of_different_objectives(tmp_path):
    lines = [{"step": 10, "split": "train", "total_loss": 5.0, "masked_lm_loss": 5.0}]
    mlm = write_workdir(tmp_path / "mlm", overrides={"objective.name": "mlm"}, lines=lines)
    no_config = write_workdir(tmp_path / "bare", lines=[{"step": 5, "split": "validation", "rtd_auc": 0.5}], events=[])
    (no_config / "config.json").unlink()
    _, page = page_of(write_workdir(tmp_path / "electra"), mlm, no_config)
    between = {row.find("th").text_content(): row for row in page.findall(".//table[@id='between']/tbody/tr")}
    assert [cell.text_content() for cell in between["objective.name"].findall("td")] == ['"electra"', '"mlm"', "?"]
    label = page.find(".//figure[@id='rtd_auc']").find(".//div[@role='img']").get("aria-label")
    assert "electra: " in label and "mlm: " not in label and "bare: held out 0.5 at step 5" in label
    assert "config.json is missing" in page.text_content()
    strokes = re.findall(r"stroke-dasharray[^;]*", page_of(mlm, tmp_path / "electra")[0])
    assert strokes  # told apart without colour


def test_ticks_of_steps_are_round(tmp_path):
    for num_steps, expected in ((300, ["100", "150", "200", "250", "300"]), (9, ["4", "6", "8"])):
        steps = range(num_steps // 3, num_steps + 1, num_steps // 3)
        lines = [{"step": step, "split": "train", "total_loss": 1.0 / step} for step in steps]
        path = write_workdir(tmp_path / str(num_steps), lines=lines, events=[])
        drawing = page_of(path)[1].find(".//figure[@id='total_loss']").find(".//div[@class='over-steps']")
        texts = [text.text for text in drawing.iter("text")]
        assert texts[: texts.index("step")] == expected


def test_runs_that_coincide_are_named(tmp_path):
    paths = [write_workdir(tmp_path / name) for name in ("a", "b")]
    other = write_workdir(tmp_path / "c", num_steps=60)
    _, page = page_of(*paths, other)
    captions = {figure.get("id"): figure.text_content() for figure in page.iter("figure")}
    assert "Dotted: unigram distribution. The same curve: a, b" in captions["masked_lm_loss"]
    assert "Dotted: random weights. The same curve: a, b" in captions["probe/trec/accuracy"]
    assert "The same curve" not in "".join(figure.text_content() for figure in page_of(other)[1].iter("figure"))


def test_a_run_of_one_line_and_nothing_else(tmp_path):
    path = write_workdir(
        tmp_path / "run", lines=[{"step": 10, "split": "train", "total_loss": float("nan")}], events=[]
    )
    _, page = page_of(path)
    assert "not a number" in page.find(".//details[@class='numbers']").text_content()
    assert page.findall(".//figure") == [] and page.find(".//ol[@class='history']") is None


def test_a_run_of_a_million_steps_is_thinned_out(tmp_path):
    metrics = [f"metric_{number}" for number in range(16)]
    lines = [
        {"step": step, "split": "train"}
        | {name: (step * 7919 + place) % 1013 / 7 for place, name in enumerate(metrics)}
        for step in range(100, 1_000_001, 100)
    ]
    events = [{"event": "start", "step": step} for step in range(0, 1_000_000, 1000)]
    html, page = page_of(write_workdir(tmp_path / "run", lines=lines, events=events))
    assert len(html) < 3e6
    details = page.find(".//details[@class='numbers']")
    assert details.find("summary").text_content() == "Training, 40 of 10,000 lines"
    steps = [values_of(row)[0] for row in details.findall(".//tbody/tr")]
    assert len(steps) == 40 and (steps[0], steps[-1]) == (100, 1_000_000)
    assert "The last 60 of 1000." in page.text_content()


def test_names_with_dollars_and_values_beyond_any_axis_are_drawn(tmp_path):
    lines = [
        {"step": step, "split": split, "total_loss": 1e308 * (-1) ** step, "rtd_auc": 0.5, "masked_lm_loss": 3.0,
         "probe/$a_{$/$x^{": 0.5}
        for step in (1, 2) for split in ("train", "validation", "probe")
    ]  # fmt: skip
    lines += [{"step": 3, "split": "validation", "rtd_auc": float("inf"), "masked_lm_loss": float("nan")}]
    _, page = page_of(write_workdir(tmp_path / "run", lines=lines))
    assert page.get_element_by_id("probe/$a_{$/$x^{").find(".//svg") is not None
    assert "$x^{" in page.get_element_by_id("probe/$a_{$/$x^{").text_content()


def test_of_many_metrics_the_first_are_drawn_and_the_rest_counted(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("electra_cli.report.plots._to_svg", lambda figure, key: drawn.append(key) or "<svg></svg>")
    names = {f"metric_{index}": 1.0 for index in range(300)}
    _, page = page_of(write_workdir(tmp_path / "run", lines=[{"step": 1, "split": "train", **names}]))
    assert "Other metrics, the first 30 of 300" in page.text_content()
    assert sum(key.startswith("metric_") for key in drawn) == 60  # over steps, and over tokens
    (table,) = page.findall(".//details[@class='numbers']")
    assert len(table.findall(".//th")) == 301
