"""`python -m gepp_audit`: the same program as `gepp-audit`, for where its script is not on the PATH."""

from __future__ import annotations

from gepp_audit.cli import run

if __name__ == "__main__":
    run()
