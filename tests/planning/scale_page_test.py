"""docs/scale.md says what the code says."""

import re

import pytest

from tests.planning.common import load_script


def test_the_page_is_what_the_code_predicts():
    script = load_script("write_scale_page")
    assert script.render(script.PAGE.read_text()) == script.PAGE.read_text(), "run scripts/write_scale_page.py"


def test_predicted_memory_is_within_15_percent_of_what_was_measured():
    script = load_script("benchmark_memory")
    records = script.json.loads(script.RECORD.read_text())
    assert len(records) == len(script.CASES)
    for record in records:
        assert 0.85 < script.predict(record["overrides"]) / record["measured_bytes"] < 1.15, record


def test_a_page_without_a_place_for_a_table_is_refused():
    script = load_script("write_scale_page")
    page = re.sub(r"<!-- begin large -->", "", script.PAGE.read_text())
    with pytest.raises(SystemExit, match="has 0 places for the table large"):
        script.render(page)
