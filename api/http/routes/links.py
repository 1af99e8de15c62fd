"""OpenAPI links: routes that continue from an answer, with their parameters."""

from typing import Any

Links = dict[str, dict[str, Any]]


def _links(operations: tuple[str, ...], **parameters: str) -> Links:
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


JOB_LINKS = _links(
    ("job", "events", "generations", "candidates", "ranks", "list_artifacts", "cancel", "delete"),
    job_id="$response.body#/id",
)
ARTIFACT_LINKS = _links(("artifact",), job_id="$request.path.job_id", name="$response.body#/artifacts/0/name")
WEBHOOK_LINKS = _links(
    ("webhook", "change_webhook", "test_webhook", "deliveries", "rotate_webhook", "delete_webhook"),
    webhook_id="$response.body#/id",
)
KEY_LINKS = _links(("rotate_key", "revoke_key"), key_id="$response.body#/id")
