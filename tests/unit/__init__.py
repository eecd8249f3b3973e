"""Pure functions, and the support code of the tests."""
