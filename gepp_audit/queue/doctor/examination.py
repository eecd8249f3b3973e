"""The list of checks, and how they are done: one after the other, whatever becomes of each."""

from __future__ import annotations

from typing import Final

from gepp_audit import logs
from gepp_audit.errors import OperatorError
from gepp_audit.queue.doctor import configuration, database, logfiles, provider, queue_checks, scheduling
from gepp_audit.queue.doctor.check import Check, Finding, Report, Spec, Subject, unknown
from gepp_audit.queue.doctor.surroundings import Surroundings

_CONFIGURATION: Final = (
    Spec(
        name="settings",
        subject=Subject.CONFIGURATION,
        meaning="Every setting is well formed, and the env file sets nothing that is none: a name spelled wrong has no "
        "effect.",
        fix="Correct what is named; .env.example explains each setting.",
        look=configuration.settings,
    ),
    Spec(
        name="env-file",
        subject=Subject.CONFIGURATION,
        meaning="The env file holds passwords and keys, so nobody but its owner may read or write it.",
        fix="chmod 600 the file, and give it to the user that the queue runs as.",
        look=configuration.env_file,
    ),
)
_DATABASE: Final = (
    Spec(
        name="database",
        subject=Subject.DATABASE,
        meaning="The database answers within 100 ms and takes writes. Where it cannot be reached, the whole report is "
        "unknown.",
        fix="Start the server, or correct DATABASE_URL: it must name the primary.",
        look=database.database,
    ),
    Spec(
        name="server-version",
        subject=Subject.DATABASE,
        meaning="The server is new enough for the queue, and a PostgreSQL still gets security fixes.",
        fix="Upgrade the server.",
        look=database.server_version,
    ),
    Spec(
        name="schema",
        subject=Subject.DATABASE,
        meaning="The tables of gepp-audit are there, in the version that this program reads and writes.",
        fix='Run "gepp-audit init-db"; if they are newer, upgrade gepp-audit on this host.',
        look=database.schema,
    ),
    Spec(
        name="platform",
        subject=Subject.DATABASE,
        meaning="The platform's tables and columns are there, and no open batch has a status that nobody takes.",
        fix="Name the platform's database in DATABASE_URL; set GEPP_AUDIT_BATCH_STATUSES=in_progress,pending on a "
        "platform that writes pending first.",
        look=database.platform,
    ),
    Spec(
        name="rights",
        subject=Subject.DATABASE,
        meaning="The database role may do all that the queue needs, and no row is hidden from it.",
        fix="Run the GRANT statements that are shown, as an owner of the tables.",
        look=database.rights,
    ),
    Spec(
        name="least-privilege",
        subject=Subject.DATABASE,
        meaning="The database role may do nothing beyond: it is no superuser, owns no table of the platform, and has "
        "no right that the README does not list. CREATE on the schema is needed by init-db alone.",
        fix="Run the REVOKE and ALTER statements that are shown, as an owner of the tables.",
        look=database.least_privilege,
    ),
    Spec(
        name="pooler",
        subject=Subject.DATABASE,
        meaning="A pooler such as PgBouncer, if one stands between, gives a server to a transaction or to a session, "
        "and its pool is not full.",
        fix="Set pool_mode=transaction, and raise default_pool_size if runs wait.",
        look=database.pooler,
    ),
    Spec(
        name="clock",
        subject=Subject.DATABASE,
        meaning="The clocks of this host and of the database differ by less than 5 seconds.",
        fix="Let both hosts keep time by NTP.",
        look=database.clock,
    ),
    Spec(
        name="sqlite-file",
        subject=Subject.DATABASE,
        meaning="An embedded database lies on a local disk and has its write-ahead log in force.",
        fix="Move the file to a local disk, or use PostgreSQL.",
        look=database.sqlite_file,
    ),
    Spec(
        name="retention",
        subject=Subject.DATABASE,
        meaning="Rows of gepp-audit's tables that are older than they are kept (90 days) have been removed.",
        fix="Ticks and runs remove them; look whether they run, and into the log.",
        look=database.retention,
    ),
)
_PROVIDER: Final = (
    Spec(
        name="key",
        subject=Subject.PROVIDER,
        meaning="An API key is set and looks like one.",
        fix="Set OPENAI_API_KEY, or OPENAI_API_KEY_FILE to a file that holds the key alone.",
        look=provider.key,
    ),
    Spec(
        name="model",
        subject=Subject.PROVIDER,
        meaning="This version knows what the model accepts.",
        fix="Correct GEPP_AUDIT_MODEL, or upgrade gepp-audit if the model is newer.",
        look=provider.model,
    ),
    Spec(
        name="model-shutdown",
        subject=Subject.PROVIDER,
        meaning="OpenAI does not shut the model down: a warning 60 days before, critical from that day on.",
        fix="Set GEPP_AUDIT_MODEL to another model, and compare its verdicts before you do.",
        look=provider.model_shutdown,
    ),
    Spec(
        name="price",
        subject=Subject.PROVIDER,
        meaning="It is known what the model costs, as of a date that is not long ago.",
        fix="Set GEPP_AUDIT_PRICES, or upgrade gepp-audit.",
        look=provider.price,
    ),
    Spec(
        name="provider",
        subject=Subject.PROVIDER,
        meaning="The provider can be reached, accepts the key and has the model. Only with --online; costs no tokens.",
        fix="Put a valid key into OPENAI_API_KEY, set GEPP_AUDIT_MODEL to a model that it may use, or look at "
        "OPENAI_BASE_URL, proxy and firewall.",
        look=provider.online,
        online=True,
    ),
)
_MACHINE: Final = (
    Spec(
        name="user",
        subject=Subject.MACHINE,
        meaning="The queue does not run as root.",
        fix="Give it a user of its own, and run the doctor as that user.",
        look=scheduling.user,
    ),
    Spec(
        name="cron-daemon",
        subject=Subject.MACHINE,
        meaning="cron runs on this machine, unless a systemd timer or a cluster starts the queue.",
        fix="systemctl enable --now cron (crond on some systems).",
        look=scheduling.cron_daemon,
    ),
    Spec(
        name="crontab",
        subject=Subject.MACHINE,
        meaning="A line of a crontab (the user's, /etc/crontab or /etc/cron.d) starts the queue; cron takes it, and "
        "its program, interpreter, env file and log file are there and may be used by the line's user.",
        fix='Run "gepp-audit crontab --install" as the user that the queue shall run as.',
        look=scheduling.crontab,
    ),
    Spec(
        name="log-file",
        subject=Subject.MACHINE,
        meaning="The log file can be written by whoever runs the queue, and there is room for it.",
        fix="Create its folder for that user, or free some space.",
        look=logfiles.log_file,
    ),
    Spec(
        name="log-rotation",
        subject=Subject.MACHINE,
        meaning="A rule of logrotate names the log file, and neither copytruncate nor compress without delaycompress "
        "loses lines of it.",
        fix="Copy scripts/logrotate.conf to /etc/logrotate.d/gepp-audit and name the file in it.",
        look=logfiles.log_rotation,
    ),
)
_QUEUE: Final = (
    Spec(
        name="runs",
        subject=Subject.QUEUE,
        meaning="Each host that runs the queue was heard of within five minutes, and all run one version.",
        fix="Look at the checks cron-daemon and crontab on the host that is silent.",
        look=queue_checks.runs,
    ),
    Spec(
        name="rival",
        subject=Subject.QUEUE,
        meaning="No other program settles our batches: the platform's own cron and its route process_queue are off.",
        fix="Switch them off, on every host.",
        look=queue_checks.rival,
    ),
)

#: every check, in the order in which they are done and shown
CHECKS: Final[tuple[Spec, ...]] = (*_CONFIGURATION, *_DATABASE, *_PROVIDER, *_MACHINE, *_QUEUE)


def examine(around: Surroundings, *, online: bool = False) -> Report:
    """Do every check that applies; `online`: those too that ask the provider. Never raises for what a check meets."""
    done = [_check(spec, around) for spec in CHECKS if online or not spec.online]
    settings = around.settings_or_none
    return Report(
        checks=tuple(check for check in done if check is not None),
        settings=() if settings is None else tuple(settings.rows()),
    )


def _check(spec: Spec, around: Surroundings) -> Check | None:
    finding = _look(spec, around)
    if finding is None:
        return None
    return Check(
        name=spec.name,
        subject=spec.subject,
        status=finding.status,
        seen=logs.redacted(finding.seen),
        fix=None if finding.fix is None else logs.redacted(finding.fix),
    )


def _look(spec: Spec, around: Surroundings) -> Finding | None:
    """What the check saw; whatever kept it from looking makes it unknown, and is no end of the others."""
    try:
        return spec.look(around)
    except OperatorError as error:
        return unknown(f"Could not be looked at: {error.message}", error.fix)
    except OSError as error:
        logs.debug("check_failed", check=spec.name, error=error)
        why = error.strerror or type(error).__name__
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        return unknown(f"Could not be looked at: {why}{where}.", "Look whether this user may read what is named.")
    except Exception as error:
        logs.debug("check_failed", check=spec.name, error=error)
        return unknown(
            f"Could not be looked at: {type(error).__name__}, which gepp-audit was not prepared for.",
            "Run the command again with -v (it stands before the command) to see where, and report it.",
        )
