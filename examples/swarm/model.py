"""The model behind all four agents, and how their steps are made durable.

Any OpenAI-compatible endpoint, as OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL name it.
"""

import os
from datetime import timedelta

from pydantic_ai.durable_exec.temporal import TemporalDurability
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityConfig

# A worker that died is noticed by its silence, so that a slow model may take its time.
STEP = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=5),
    heartbeat_timeout=timedelta(seconds=5),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=20),
)


def chat_model() -> OpenAIChatModel:
    provider = OpenAIProvider(
        base_url=os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
    )
    return OpenAIChatModel(os.environ.get("OPENAI_MODEL") or "gpt-4.1-mini", provider=provider)


def durable() -> TemporalDurability[object]:
    """Every model call and every tool is an activity: recorded when it is done, and not done again."""
    return TemporalDurability(activity_config=STEP, model_activity_config=STEP)
