"""What all request bodies share."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class RequestBody(BaseModel):
    """Base of the request bodies: unknown fields are kept, wrong types refused."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        """A null is the same as an absent field, except where a schema asks for the null."""
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if v is not None or k in cls._nullable()}

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset()
