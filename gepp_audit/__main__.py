"""The program `gepp-audit`; `python -m gepp_audit` is the same, for where its script is not on the PATH."""

from __future__ import annotations

import gc
import signal

# until the command line stands, which ends with a word: a Ctrl-C ends the loading as it ends other programs
_loading = signal.getsignal(signal.SIGINT)
if _loading is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# before anything is imported: what is imported stays, and looking through it for cycles again and again while it comes
# takes a tenth of an idle tick; a run that has work still collects what it leaves behind
gc.set_threshold(150_000, 20, 100)

from gepp_audit.cli import run  # noqa: E402

if _loading is signal.default_int_handler:
    signal.signal(signal.SIGINT, _loading)

__all__ = ["run"]

if __name__ == "__main__":
    run()
