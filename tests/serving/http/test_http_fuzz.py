"""Every endpoint under random requests made from its own description: it answers as described, and never with 500."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from conftest import FOLDERS, LIMITS
from deed.serving.app import create_app
from deed.serving.settings import ServeSettings

FUZZED = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def api(loaded):
    made = ServeSettings(models=tuple(FOLDERS.items()), limits=LIMITS)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(made, loaded), base_url="http://localhost")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@FUZZED
def test_random_requests(case):
    response = case.call(headers={"Host": "localhost"})
    case.validate_response(
        response,
        checks=[
            schemathesis.checks.not_a_server_error,
            schemathesis.openapi.checks.status_code_conformance,
            schemathesis.openapi.checks.content_type_conformance,
            schemathesis.openapi.checks.response_schema_conformance,
        ],
    )
    assert "Traceback" not in response.text
