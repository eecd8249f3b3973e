"""Crontabs: how cron reads a line, which lines start the queue, and what the block does to a foreign crontab."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.crontabs import block
from gepp_audit.crontabs.lines import Job, Start, jobs, starts
from gepp_audit.errors import OperatorError

COMMAND = block.Command(
    program=("/opt/gepp-audit/.venv/bin/gepp-audit",),
    env_file="/etc/gepp-audit.env",
    log_file="/var/log/gepp-audit/audit.log",
    user="gepp-audit",
    host="worker-1",
)
BLOCK = block.write(COMMAND, 60)

LINES = st.one_of(
    st.text(st.characters(exclude_characters="\n", codec=None), max_size=60),
    st.sampled_from(
        [
            "",
            "# a comment",
            "MAILTO=root",
            "0 3 * * * /usr/bin/backup --all >/dev/null 2>&1",
            "* * * * * /usr/bin/date +\\%s",
            "@daily run\r",
            "# gepp-audit",
            " # END gepp-audit",
            "# BEGIN gepp-auditor",
        ]
    ),
).filter(lambda line: not line.startswith(("# BEGIN gepp-audit ", "# END gepp-audit ")))
CRONTABS = st.lists(LINES, max_size=8).flatmap(
    lambda lines: st.sampled_from(["\n".join(lines), "\n".join([*lines, ""])])
).filter(lambda text: not re.search(r"^# (BEGIN|END) gepp-audit$", text, re.MULTILINE))  # fmt: skip


def only(text: str, *, system: bool = False) -> Start:
    [start] = starts(jobs(text, system=system))
    return start


# -- the block ---------------------------------------------------------------------------------------------------------


def test_the_block_has_absolute_paths_and_one_line_for_every_minute() -> None:
    assert BLOCK == (
        '# BEGIN gepp-audit ("gepp-audit crontab --remove" takes this block out)\n'
        "# every minute, as gepp-audit on worker-1; it prints nothing unless something is wrong\n"
        "* * * * * /opt/gepp-audit/.venv/bin/gepp-audit --env-file /etc/gepp-audit.env "
        "--log-file /var/log/gepp-audit/audit.log process-queue --max-seconds 55\n"
        "# END gepp-audit\n"
    )


def test_every_30_seconds_takes_two_lines_that_stop_in_time() -> None:
    first, second = starts(jobs(block.write(COMMAND, 30)))
    assert [start.arguments[-2:] for start in (first, second)] == [("--max-seconds", "25")] * 2
    assert [start.job.command.startswith("sleep 30 && ") for start in (first, second)] == [False, True]


def test_the_block_sets_no_variable_that_would_hold_for_the_lines_below_it() -> None:
    below = "* * * * * true\n"
    [_, job] = jobs(block.install("", BLOCK) + below)
    assert job.environ == {}


def test_a_path_that_no_crontab_can_hold_is_refused() -> None:
    with pytest.raises(OperatorError, match="line break"):
        block.write(replace(COMMAND, env_file="/etc/two\nlines.env"), 60)


@given(words=st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.isprintable), min_size=1))
def test_quoted_words_come_out_of_cron_and_the_shell_as_they_were(words: list[str]) -> None:
    line = "* * * * * " + " ".join(block.quoted(word) for word in ["printf", "%s\\0", *words])
    [job] = jobs(line)
    assert not job.is_cut
    done = subprocess.run(["/bin/sh", "-c", job.command], capture_output=True, check=True)
    assert done.stdout.decode() == "".join(f"{word}\0" for word in words)


# -- the merge ---------------------------------------------------------------------------------------------------------


@given(text=CRONTABS)
def test_installing_adds_the_block_and_removing_gives_back_what_was_there(text: str) -> None:
    with_newline = text if text.endswith("\n") or not text else text + "\n"
    installed = block.install(text, BLOCK)
    assert installed == with_newline + BLOCK
    assert block.remove(installed) == with_newline
    assert block.remove(text) == text
    assert block.find(text) is None


@given(before=CRONTABS, after=CRONTABS)
def test_a_block_in_the_middle_is_renewed_where_it_stands_byte_for_byte(before: str, after: str) -> None:
    before = before if before.endswith("\n") or not before else before + "\n"
    old, new = BLOCK, block.write(COMMAND, 30)
    assert block.install(before + old + after, new) == before + new + after
    assert block.install(before + new + after, new) == before + new + after
    assert block.remove(before + old + after) == before + after
    assert block.find(before + old + after) == old


@pytest.mark.parametrize(
    "text",
    [
        "# BEGIN gepp-audit\n* * * * * true\n",
        "# END gepp-audit\n",
        "# END gepp-audit\n# BEGIN gepp-audit\n",
        BLOCK + BLOCK,
        "# BEGIN gepp-audit\n" + BLOCK,
    ],
)
def test_markers_that_do_not_pair_up_are_refused_by_the_number_of_their_lines(text: str) -> None:
    with pytest.raises(OperatorError, match=r"do not pair up \(lines? \d"):
        block.install(text, BLOCK)
    with pytest.raises(OperatorError, match=r"do not pair up \(lines? \d"):
        block.remove(text)


def test_a_line_of_ours_outside_of_the_block_is_found_by_its_number() -> None:
    text = f"MAILTO=x\n{BLOCK}*/5 * * * * cd /srv && .venv/bin/python -m gepp_audit process-queue\n"
    assert [start.job.number for start in block.others(text)] == [6]


# -- reading lines -----------------------------------------------------------------------------------------------------


def test_cron_ends_a_command_at_a_bare_percent_sign_and_undoes_an_escaped_one() -> None:
    [job] = jobs("0 0 1 * * date +\\%F; cat %the input")
    assert (job.command, job.is_cut) == ("date +%F; cat ", True)


def test_settings_hold_for_the_lines_below_them() -> None:
    first, second = jobs("* * * * * a\nPATH = /opt/bin:/bin\n\"MAILTO\"='me'\n@hourly b\n")
    assert first == Job(number=1, schedule="* * * * *", user=None, written="a")
    assert (second.number, second.schedule, second.environ) == (4, "@hourly", {"PATH": "/opt/bin:/bin", "MAILTO": "me"})


def test_a_line_of_a_system_crontab_names_its_user() -> None:
    start = only("* * * * * gepp /opt/gepp-audit process-queue\n@reboot x\n", system=True)
    assert (start.job.user, start.program) == ("gepp", ("/opt/gepp-audit",))


@pytest.mark.parametrize(
    ("command", "program", "environ"),
    [
        ("/opt/bin/gepp-audit --env-file /e process-queue", ("/opt/bin/gepp-audit",), {}),
        ("cd /srv && .venv/bin/python -m gepp_audit process-queue", (".venv/bin/python", "-m", "gepp_audit"), {}),
        ("sleep 30 && gepp-audit process-queue --max-seconds 25 >>/l 2>&1", ("gepp-audit",), {}),
        ("flock -n /run/l gepp-audit process-queue", ("gepp-audit",), {}),
        ("A=1 B='x y' gepp-audit process-queue; true", ("gepp-audit",), {"A": "1", "B": "x y"}),
        ("(gepp-audit process-queue)", ("gepp-audit",), {}),
    ],
)
def test_a_command_that_starts_the_queue_is_taken_apart(
    command: str, program: tuple[str, ...], environ: dict[str, str]
) -> None:
    start = only(f"* * * * * {command}")
    assert (start.program, start.environ) == (program, environ)


@pytest.mark.parametrize(
    "command",
    [
        "gepp-audit stuck",
        "echo process-queue",
        "/usr/bin/gepp-auditor process-queue",
        "curl https://platform/process_queue",
        "gepp-audit stuck || echo process-queue",
    ],
)
def test_other_commands_start_nothing(command: str) -> None:
    assert starts(jobs(f"* * * * * {command}")) == []


def test_options_and_redirections_are_read() -> None:
    start = only("* * * * * gepp-audit --env-file=/e --log-file '/a b.log' process-queue >> /out.log 2>/err.log")
    assert start.before_command("--env-file") == "/e"
    assert start.before_command("--log-file") == "/a b.log"
    assert start.before_command("--log-format") is None
    assert start.redirected_to == ("/out.log", "/err.log")


@given(text=st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    for system in (False, True):
        starts(jobs(text, system=system))
    starts(jobs(f"* * * * * {text}"))
