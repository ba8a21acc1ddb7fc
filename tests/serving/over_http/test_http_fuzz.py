"""Every endpoint under random requests made from its own description: it answers as described, and never with 500."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

FUZZED = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def test_random_requests(served):
    count = 0
    for found in schemathesis.openapi.from_url(f"{served.url}/openapi.json").get_all_operations():
        operation = found.ok()

        @FUZZED
        @given(case=operation.as_strategy())
        def answers_as_described(case):
            response = case.call()
            case.validate_response(response, checks=CHECKS)
            assert "Traceback" not in response.text

        answers_as_described()
        count += 1
    assert count >= 12
