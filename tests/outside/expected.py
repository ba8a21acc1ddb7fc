"""Which of Transformers' generation tests fail on deed models by design, and why.

By (folders of `tests/models`, name of the test): reason.
"""

EXPECTED: dict[tuple[str, str], str] = {}
