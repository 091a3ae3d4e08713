"""The server against its own OpenAPI description: requests that schemathesis makes up, and what holds for answers."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("httpx", reason="needs httpx, of the extra 'test'")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra 'test'")
hypothesis = pytest.importorskip("hypothesis", reason="comes with schemathesis")

from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.test_server import served  # noqa: E402

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 8
"""Of each operation; more of them find the same, for longer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        folder = tmp_path_factory.mktemp("served")
        with served(folder, "--rate", "1000", "--webcam", "--token", "a-token-of-the-tests") as running:
            yield running


@schemathesis.serializer(
    "image/jpeg",
    "image/png",
    "image/webp",
    "video/mp4",
    "video/quicktime",
    "video/webm",
    "video/x-matroska",
    "video/x-msvideo",
)
def _as_it_is(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


def test_every_answer_is_one_that_is_documented(server):
    headers = dict(server.client.headers)
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=headers)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        def answered(case):
            case.call_and_validate(headers=headers, checks=CHECKS)

        answered()
    assert server.client.get("/healthz").json()["status"] == "ok"
    assert server.files() == []
