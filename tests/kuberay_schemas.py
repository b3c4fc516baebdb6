"""KubeRay's own schemas, which say what its operator takes; a field that they do not name is refused."""

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

DIRECTORY = Path(os.environ.get("NML_KUBERAY") or Path(__file__).parents[2] / "shared" / "kuberay")


@pytest.fixture(scope="session")
def ray_job_schema() -> jsonschema.Draft202012Validator:
    """Of a RayJob in version v1."""
    path = DIRECTORY / "ray.io_rayjobs.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not in {DIRECTORY} (set NML_KUBERAY)")
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(one for one in definition["spec"]["versions"] if one["name"] == "v1")
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"], metadata=True))


def closed(schema: dict[str, Any], metadata: bool = False) -> dict[str, Any]:
    """A structural schema of Kubernetes as JSON Schema that refuses unknown fields."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": schema.get("pattern", "")}]}
    result = {key: value for key, value in schema.items() if key in KEPT}
    if "items" in schema:
        result["items"] = closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = closed(schema["additionalProperties"])
    elif schema.get("type") == "object":
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or not schema.get("properties")
        result["additionalProperties"] = bool(open_ended)
    if "properties" in schema:
        result["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
    if metadata:  # the API server knows it without the definition
        names = {
            "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"},
            "namespace": {"type": "string"},
        }
        texts = {"type": "object", "additionalProperties": {"type": "string"}}
        result["properties"]["metadata"] = {
            "type": "object",
            "properties": names | {"labels": texts, "annotations": texts},
            "required": ["name"],
            "additionalProperties": False,
        }
    return result


KEPT = ("type", "enum", "required", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
