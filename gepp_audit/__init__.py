"""gepp-audit: audits the queued transactions of a GEPP platform with one OpenAI call each."""

__version__ = "0.1.0"
