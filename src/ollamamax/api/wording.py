"""Ollama's texts for a model that is not there; they differ from endpoint to endpoint."""

from ollamamax.core.errors import InvalidName, ModelNotFound
from ollamamax.core.modelspec import names


def missing_model(model: str, not_found: str, invalid: str = "invalid model name") -> InvalidName | ModelNotFound:
    """The error for `model` as it was asked for. not_found, invalid: texts, with `{}` where the model stands."""
    if not is_valid_name(model):
        return InvalidName(invalid.replace("{}", model))
    return ModelNotFound(not_found.replace("{}", model))


def is_valid_name(model: str) -> bool:
    """Whether it is within the grammar of core/modelspec/names.py."""
    try:
        names.parse(model)
    except InvalidName:
        return False
    return True


def short_name(model: str) -> str:
    """The normalised short name, always with its tag; what is outside the grammar stays as it is."""
    return names.parse(model).short if is_valid_name(model) else model
