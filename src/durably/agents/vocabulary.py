"""What of a payload the decoders look at: all that has to be known of one to tell what was called, and
what it cost. The console's browser sends nothing else of a payload that it decoded.

Rule 1: a word that a decoder compares a key or a text with is in `WORDS`; a test reads the decoders for it.
Rule 2: every other text, and every other number, may be exchanged for a placeholder, the same one for the
        same text: the calls that are read are the same, with placeholders for what was said.
"""

from typing import Final


def _of(lines: str) -> frozenset[str]:
    return frozenset(lines.split())


COUNTS: Final = _of("""
    cacheReadInputTokens cacheWriteInputTokens cache_creation cache_creation_input_tokens cache_read
    cache_read_input_tokens cache_read_tokens cache_write_tokens cachedContentTokenCount
    cached_content_token_count cached_tokens candidatesTokenCount candidates_token_count
    completion_tokens inputTokens input_tokens outputTokens output_reasoning_tokens output_tokens
    promptTokenCount prompt_token_count prompt_tokens reasoning reasoning_tokens thoughtsTokenCount
    thoughts_token_count
""")
"""Keys of numbers of tokens."""
NAMES: Final = _of("""
    model modelVersion model_id model_name model_provider model_version provider_name
""")
"""Keys of the names of models and of who provides them."""
FLAGS: Final = _of("partial thought")
"""Keys of booleans."""
CONTENT: Final = _of("args arguments content input parameters tool_args")
"""Keys below which no count, name or flag is looked for."""
MESSAGES: Final = _of("""
    AIMessage AIMessageChunk HumanMessage HumanMessageChunk SystemMessage SystemMessageChunk ToolMessage
    ToolMessageChunk
""")
"""What LangChain calls its messages."""
WORDS: Final = (
    COUNTS
    | NAMES
    | FLAGS
    | CONTENT
    | MESSAGES
    | _of("""
        adk_agent_name ai assistant call_id chat.completion choices completion_tokens_details config
        contentBlockDelta contentBlockStart contentBlockStop contents conversation_id delta details
        developer finishReason finish_reason function functionCall functionResponse function_call
        function_call_output function_response human id image_url input_token_details
        input_tokens_details instructions interactionId interaction_id kind kwargs labels
        langgraph_command lc llmRequest llm_request message messageStop messages metadata name object
        output output_token_details output_tokens_details part_kind parts prompt_tokens_details
        provider_response_id response response_id response_metadata result retry-prompt role
        serialized_run_context start status stopReason stop_reason summary system system-prompt
        systemInstruction system_instruction system_instructions system_prompt text thinking tool
        tool-call tool-return toolResult toolUse toolUseId tool_call tool_call_id tool_calls tool_name
        tool_use type usage usageMetadata usage_metadata user
    """)
)
"""Keys, and texts, that say what an object is."""
