"""What is wrong with settings, database, provider and machine before a batch shows it: a list of checks.

`CHECKS` is the list, `examine` does them, each a function that looks and never changes anything. A check that cannot
look says `unknown` and why, and the others go on.
"""

from __future__ import annotations

from gepp_audit.queue.doctor.check import Check, Report, Spec
from gepp_audit.queue.doctor.examination import CHECKS, examine
from gepp_audit.queue.doctor.surroundings import Surroundings

__all__ = ["CHECKS", "Check", "Report", "Spec", "Surroundings", "examine"]
