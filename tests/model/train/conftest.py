"""What the tests of training share."""

import json

import pytest


@pytest.fixture
def log_lines():
    """The lines of a run's log."""

    def read(folder):
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    return read
