"""The example files: they name each setting with its true default, and are what their programs accept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gepp_audit.cli.crontab import USUAL_LOG_FILE
from gepp_audit.settings import Settings, load

ROOT = Path(__file__).parents[2]
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
CRONTAB = (ROOT / "crontab.example").read_text(encoding="utf-8")
LOGROTATE = (ROOT / "scripts/logrotate.conf").read_text(encoding="utf-8")


def test_the_env_example_names_exactly_the_settings() -> None:
    named = re.findall(r"^#?([A-Z_]+)=", ENV_EXAMPLE, flags=re.MULTILINE)
    assert sorted(named) == sorted(variable for variable, _, _ in Settings().rows())


def test_each_default_of_the_env_example_is_the_true_one(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(re.sub(r"^#(?=[A-Z_]+=)", "", ENV_EXAMPLE, flags=re.MULTILINE), encoding="utf-8")
    shown = {variable: value for variable, value, _ in load({}, {}, tmp_path).rows()}
    # two of its examples are no defaults
    assert {**shown, **dict.fromkeys(("GEPP_AUDIT_PRICES", "GEPP_AUDIT_LOG_FILE"), "unset")} == {
        variable: value for variable, value, _ in Settings().rows()
    }


def test_every_example_names_one_log_file() -> None:
    files = [".env.example", "crontab.example", "README.md", "scripts/logrotate.conf"]
    for name in [*files, "scripts/systemd/gepp-audit.service"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"[\w/.-]+\.log\b", text)) == {USUAL_LOG_FILE}, name


def test_the_env_example_as_it_is_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV_EXAMPLE, encoding="utf-8")
    assert load({}, {}, tmp_path).origins == {}


def jobs(text: str) -> list[str]:
    """The lines of a crontab that start something, those that are commented out too."""
    return re.findall(r"^#?((?:\*|\d+) (?:\S+ ){4}.*)$", text, flags=re.MULTILINE)


def test_the_crontab_has_its_three_jobs_with_absolute_paths() -> None:
    commands = [job.split(" ", 5)[5] for job in jobs(CRONTAB)]
    assert len(commands) == 3
    assert [re.findall(r"\S*gepp-audit(?= --env-file)", command)[0].lstrip("told=$(") for command in commands] == (
        ["/opt/gepp-audit/.venv/bin/gepp-audit"] * 3
    )


def test_the_crontab_ends_with_a_newline_and_has_no_bare_percent_sign_in_a_job() -> None:
    assert CRONTAB.endswith("\n")
    assert [job for job in jobs(CRONTAB) if re.search(r"(?<!\\)%", job)] == []


@pytest.mark.parametrize("word", ["create", "compress", "delaycompress", "nocopytruncate"])
def test_logrotate_loses_no_line(word: str) -> None:
    assert re.search(rf"^ +{word}\b", LOGROTATE, flags=re.MULTILINE)
    assert not re.search(r"^ +copytruncate\b", LOGROTATE, flags=re.MULTILINE)
