"""Long work over the store: its steps as lines while they happen, or the last one at the end."""

from collections.abc import AsyncGenerator

from ollamamax.api.call import Call
from ollamamax.api.streaming import Watch, watched
from ollamamax.core.dialects import ollama_answers
from ollamamax.core.dialects.framing import NDJSON_TYPE, encode, ndjson
from ollamamax.core.types import Progress


async def progressed(
    call: Call, steps: AsyncGenerator[Progress, None], streamed: bool, *, changes_store: bool = True
) -> None:
    """Do the work and answer. changes_store: this node has other models after it. Raises: what the work raises."""

    async def work(watch: Watch) -> None:
        last = Progress("success")
        async for last in steps:
            if changes_store and last.status == "success":
                await call.services.fleet.local_changed()
            if streamed:
                if not call.status:
                    await call.start(200, NDJSON_TYPE.encode())
                await watch.write(ndjson(ollama_answers.progress(last)))
        if streamed:
            await call.write(b"", more=False)
        else:
            await call.reply(200, encode(ollama_answers.progress(last)))

    await watched(call, steps, lambda text: ndjson({"error": text}), work)
