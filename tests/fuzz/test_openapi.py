"""Intake's OpenAPI document says what the door does, whatever is generated from it."""

import itertools
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deploy.local.ports import LOOPBACK
from tests.fuzz.budget import fuzz, round_of
from tests.fuzz.doors import HANG_SECONDS, KEY, HttpDoorAddress

OPERATIONS = (("POST", "/v1/events"), ("GET", "/v1/requests"), ("GET", "/v1/requests/{reference}"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    missing_required_header,
]


def refused_or_taken_apart(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """What the document forbids is refused; of a batch, 207 says which of its events were."""
    return None if response.status_code == 207 else negative_data_rejection(context, response, case)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_as_the_document_says(
    door: HttpDoorAddress, method: str, path: str, mode: GenerationMode
) -> None:
    document = schemathesis.openapi.from_url(f"http://{LOOPBACK}:{door.port}/openapi.json")
    checks = CHECKS + [refused_or_taken_apart] * (mode is GenerationMode.NEGATIVE)

    @settings(round_of)
    @given(document[path][method].as_strategy(generation_mode=mode))
    def claim(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=checks, timeout=HANG_SECONDS)

    fuzz(claim, share=0.5 / len(list(itertools.product(OPERATIONS, GenerationMode))))
