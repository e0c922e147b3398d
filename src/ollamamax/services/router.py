"""Look and choose: from a request to the engines that can answer it, or to the error that says why none can."""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from ollamamax.core.errors import InvalidName, ModelNotFound, NoCandidate, OllamaMaxError
from ollamamax.core.modelspec import names
from ollamamax.core.routing.decide import FETCH_TIER, Decision, Ranked, decide
from ollamamax.core.routing.filters import NO_MODEL
from ollamamax.core.routing.place import place
from ollamamax.core.routing.predict import RequestFacts, RoutingConfig, prompt_tokens
from ollamamax.core.types import ChatRequest, EmbedRequest
from ollamamax.services.fleet import Fleet
from ollamamax.services.members import Lease

_NOTHING: Final[Mapping[str, str]] = {}
_key = lru_cache(maxsize=1024)(names.key)


class Router:
    """Joins what the fleet knows and what core/routing decides.

    assigned: nodes that a model is placed on, by id, "" = this one: where nobody has it yet, one of them gets it.
    """

    def __init__(
        self,
        fleet: Fleet,
        config: RoutingConfig,
        assigned: Callable[[str], Collection[str]] = lambda key: (),
    ) -> None:
        self.fleet = fleet
        self._config = config
        self._assigned = assigned

    def facts(self, request: ChatRequest | EmbedRequest) -> RequestFacts:
        """What routing needs to know of a request. Output is guessed from former answers, cut at `num_predict`."""
        key = _key(request.model)
        if isinstance(request, EmbedRequest):
            return RequestFacts(key, prompt_tokens(request.inputs))
        texts: list[str] = []
        images = 0
        for message in request.messages:
            texts.append(message.content)
            images += len(message.images)
        if request.prompt is not None:
            texts.append(request.prompt)
        if request.system is not None:
            texts.append(request.system)
        output = int(self.fleet.mean_output_tokens) or self._config.output_tokens
        limit = request.options.num_predict
        if limit is not None and 0 < limit < output:
            output = limit
        return RequestFacts(key, prompt_tokens(texts, images) + len(request.context), output)

    def choose(
        self, facts: RequestFacts, queued: int = 0, tried: Mapping[str, str] = _NOTHING, whole: bool = False
    ) -> Decision:
        """Rank the engines now. queued: requests that wait for the same model.  tried: engines to leave out, why.

        whole: look at engines that do not have the model too, and at all scores, so that the decision explains itself.
        """
        fleet, key = self.fleet, facts.model_key
        if queued:
            facts = replace(facts, queued_tokens=queued * facts.output_tokens)
        excluded = fleet.held_back(key)
        excluded.update(tried)
        snapshot = fleet.snapshot() if whole else fleet.snapshot_of(key)
        entry = fleet.entry(key)
        if entry is None:
            return decide(facts, snapshot, excluded, self._config, explained=whole)
        decision = decide(facts, snapshot, excluded, self._config, digest=entry.digest, explained=whole)
        if decision.best is None and not decision.is_open:
            stores, wanted = fleet.stores(), self._assigned(key)
            if wanted:
                chosen = [facts for facts in stores if facts.node_id in wanted]
                placed = place(decision, snapshot.engines, chosen, excluded, entry, self._config)
                if placed.best is not None and placed.best.tier == FETCH_TIER:
                    return placed
            return place(decision, snapshot.engines, stores, excluded, entry, self._config)
        return decision

    def begin(self, ranked: Ranked, facts: RequestFacts) -> Lease:
        """Take a slot there."""
        return self.fleet.begin(ranked, facts.model_key, facts.output_tokens)

    def refusal(self, model: str, decision: Decision) -> OllamaMaxError:
        """Why nobody can answer. model: as the client wrote it."""
        if not decision.is_nowhere:
            reasons = [f"engine '{one.engine_id}' {one.reason}" for one in decision.out if one.reason != NO_MODEL]
            return NoCandidate(f"no engine can answer for model '{model}' now: {'; '.join(reasons)}")
        try:
            names.parse(model)
        except InvalidName as error:
            return error
        return ModelNotFound(f"model '{model}' not found")
