"""Ollama's texts for a model that is not there; they differ from endpoint to endpoint."""

from typing import Final

from ollamamax.core.errors import CloudDisabled, InvalidName, ModelNotFound
from ollamamax.core.modelspec import names

_CLOUD: Final = (":cloud", "-cloud")
REMOTE_MODEL: Final = "remote model is unavailable"
"""Said of a model of ollama.com's that is to answer."""


def missing_model(
    model: str,
    not_found: str,
    invalid: str = "invalid model name",
    cloud: str = "",
) -> InvalidName | ModelNotFound | CloudDisabled:
    """The error for `model` as it was asked for. not_found, invalid: texts, with `{}` where the model stands.

    cloud: what is unavailable if it is a model of ollama.com's; "" where that makes no difference.
    """
    if not is_valid_name(model):
        return InvalidName(invalid.replace("{}", model))
    if cloud and ":" in model and model.lower().endswith(_CLOUD):
        return cloud_disabled(cloud)
    return ModelNotFound(not_found.replace("{}", model))


def cloud_disabled(what: str) -> CloudDisabled:
    """What an Ollama says whose cloud is switched off."""
    return CloudDisabled(f"ollama cloud is disabled: {what}")


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
