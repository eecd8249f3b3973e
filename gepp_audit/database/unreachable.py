"""Why a PostgreSQL cannot be reached, in words and with what mends it: pure, from what libpq said.

A connection that was not made has no SQLSTATE, so libpq's own words decide (and the server's, where those are English).
They quote names, and of several addresses of one host each its own failure: names are taken out before anything is
compared, and what a person has to mend comes before what may pass by itself.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_QUOTED: Final = re.compile(r'"[^"]*"|“[^”]*”')


class Trouble(NamedTuple):
    """One way in which no connection comes about."""

    #: what libpq or the server says, in lower case and without names
    sign: re.Pattern[str]
    words: str
    fix: str
    #: no repetition helps: a person must mend it
    lasting: bool = False


def _trouble(sign: str, words: str, fix: str, *, lasting: bool = False) -> Trouble:
    return Trouble(re.compile(sign), words, fix, lasting)


_KNOWN: Final = (
    _trouble(
        r"authentication failed|no password supplied|password is empty",
        "user or password refused",
        "Correct user and password in DATABASE_URL (a special character is percent-encoded).",
        lasting=True,
    ),
    _trouble(
        r"no pg_hba\.conf entry.*(no encryption|ssl off)",
        "the server lets this host, user and database in with TLS only, or not at all",
        "Add ?sslmode=require to DATABASE_URL; if that is refused too, an administrator adds a line to pg_hba.conf.",
        lasting=True,
    ),
    _trouble(
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "the server does not let this host, user and database in",
        "An administrator adds a line to pg_hba.conf, or correct DATABASE_URL.",
        lasting=True,
    ),
    _trouble(
        r"does not support ssl|ssl was required",
        "the server speaks no TLS, and sslmode asks for it",
        "Switch TLS on in the server (ssl = on), or correct sslmode in DATABASE_URL.",
        lasting=True,
    ),
    _trouble(
        r"certificate|private key file|sslmode|sslrootcert",
        "TLS failed: the server's certificate or this host's is missing or not trusted",
        "Look at sslmode, sslrootcert and sslcert in DATABASE_URL, and at the server's certificate.",
        lasting=True,
    ),
    _trouble(
        r"database \S+ does not exist|no such database",
        "there is no such database on that server",
        "Correct the name behind the last / in DATABASE_URL, or create the database.",
        lasting=True,
    ),
    _trouble(
        r"role \S+ does not exist|role \S+ is not permitted to log in|no such user",
        "there is no such user on that server",
        "Correct the user in DATABASE_URL, or create the role (the README lists its rights).",
        lasting=True,
    ),
    _trouble(
        r"could not translate host name|name or service not known|nodename nor servname",
        "unknown host name",
        "Correct the host in DATABASE_URL, or look at this host's DNS (getent hosts NAME).",
    ),
    _trouble(
        r"too many clients|too many connections|connection slots are reserved|no more connections allowed",
        "all of its connections are taken",
        "End sessions that nobody needs, raise max_connections or the pooler's size, then run the command again.",
    ),
    _trouble(
        r"starting up|shutting down|in recovery mode|not yet accepting connections",
        "the server is starting or shutting down",
        "Wait until it is up, then run the command again.",
    ),
    _trouble(
        r"connection refused",
        "connection refused",
        "Start PostgreSQL, or correct host and port in DATABASE_URL, then run the command again.",
    ),
    _trouble(
        r"no such file or directory",
        "no server listens on that socket",
        "Start PostgreSQL, or name its host in DATABASE_URL, then run the command again.",
    ),
    _trouble(
        r"timeout|timed out",
        "no answer in time",
        "Look whether a firewall lets this host through to that port, then run the command again.",
    ),
    _trouble(
        r"no route to host|network is unreachable|host is down",
        "there is no way through the network to that host",
        "Look at the network of this host and of the server, then run the command again.",
    ),
    _trouble(
        r"closed the connection|connection has been closed|connection reset|terminating connection|ssl syscall",
        "the server closed the connection",
        "Look into the server's log, and whether that port is PostgreSQL's; then run the command again.",
    ),
    _trouble(
        r"ssl error|ssl negotiation|tlsv1|tls version",
        "TLS failed: the server and this host do not agree",
        "Look at sslmode in DATABASE_URL, and whether that port is PostgreSQL's; then run the command again.",
    ),
)
_OTHER: Final = _trouble(
    "", "the connection failed", "Start PostgreSQL or correct DATABASE_URL, then run the command again."
)


def trouble(said: str) -> Trouble:
    """What `said` (the driver's message) means."""
    plain = _QUOTED.sub('""', said).lower()
    return next((one for one in _KNOWN if one.sign.search(plain)), _OTHER)
