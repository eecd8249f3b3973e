"""The Audit History page, rendered here."""
