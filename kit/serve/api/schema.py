"""Requests: what clients may send, in OpenAI's names and ranges.

https://platform.openai.com/docs/api-reference/chat/create and .../completions/create; ``top_k``,
``min_tokens`` and ``ignore_eos`` are what vLLM and other servers add.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kit.serve.api import neutral
from kit.serve.api.neutral import Neutral

# Of one prompt; each is a sequence of its own in the KV cache.
MAX_CHOICES = 8
# Of one request; together with the choices they may fill the queue.
MAX_PROMPTS = 64


def _encodable(text: str) -> str:
    """JSON can escape half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "Input should be text that UTF-8 can encode"
        raise PydanticCustomError("string_unicode", message) from error
    return text


def _whole(value: Any) -> Any:
    """JavaScript and Lua know one kind of number, and may write 2 as 2.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_whole)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
"""0 keeps the most probable token alone."""
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[Integer, Field(ge=1)]
Seed = Annotated[Integer, Field(ge=-(2**63), lt=2**63)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, AfterValidator(_encodable)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def _shape(value: Any) -> str:
    """Which type of a union to try: one error then says what is wrong, not one per type."""
    return "[many]" if isinstance(value, list) else "[one]"


def _prompt_shape(value: Any) -> str:
    if not isinstance(value, list):
        return "[text]"
    first = value[0] if value else ""
    return (
        "[texts]" if isinstance(first, str) else "[lists]" if isinstance(first, list) else "[ids]"
    )


Stop = Annotated[
    Annotated[StopString, Tag("[one]")]
    | Annotated[list[StopString], Field(max_length=4), Tag("[many]")],
    Discriminator(_shape),
]
Prompt = Annotated[
    Annotated[Text, Tag("[text]")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS), Tag("[texts]")]
    | Annotated[TokenIds, Tag("[ids]")]
    | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS), Tag("[lists]")],
    Discriminator(_prompt_shape),
]


class _Strict(BaseModel):
    """No unknown fields, no guessing at types, no NaN; neutral values are dropped first."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    accepts_neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, fields: Any) -> Any:
        return neutral.without_neutral(fields, cls.accepts_neutral, cls.model_fields)


class StreamOptions(_Strict):
    """``include_usage`` asks for one more chunk, with the token counts."""

    accepts_neutral: ClassVar[Neutral] = neutral.STREAM_OPTIONS

    include_usage: bool | None = None


class GenerationRequest(_Strict):
    """What both endpoints take. None leaves a setting at the model's default."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[Integer, Field(ge=0)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[Integer, Field(ge=-1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_another_makes_void(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        void = {
            "tools": fields.get("tool_choice") == "none",
            "functions": fields.get("function_call") == "none",
            "best_of": fields.get("best_of") == (fields.get("n") or 1),
        }
        return {name: value for name, value in fields.items() if not void.get(name)}

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "GenerationRequest":
        if self.wants_usage_chunk() and not self.stream:
            raise _conflict("stream_options", "'stream_options' needs 'stream' to be true.")
        return self

    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage_chunk(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(_Strict):
    """A part of a message's content; only text."""

    accepts_neutral: ClassVar[Neutral] = neutral.PART

    type: Literal["text"]
    text: Text


Content = Annotated[
    Annotated[Text, Tag("[one]")] | Annotated[list[TextPart], Field(min_length=1), Tag("[many]")],
    Discriminator(_shape),
]


class Message(_Strict):
    """One message of a conversation."""

    accepts_neutral: ClassVar[Neutral] = neutral.MESSAGE

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _answer_without_text(cls, fields: Any) -> Any:
        """Clients send null, or nothing, for an answer that was empty."""
        if isinstance(fields, dict) and fields.get("role") == "assistant":
            return fields if fields.get("content") not in (None, []) else fields | {"content": ""}
        return fields

    def text(self) -> str:
        """The content; parts are joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    accepts_neutral: ClassVar[Neutral] = neutral.CHAT

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if all(message.role != "user" for message in self.messages):
            raise _conflict("messages", "'messages' needs a message with the role 'user'.")
        if self.top_logprobs and not self.logprobs:
            raise _conflict("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            message = "'max_tokens' and 'max_completion_tokens' mean the same; send one of them."
            raise _conflict("max_tokens", message)
        return self

    def token_limit(self) -> int | None:
        """The most tokens the client wants, by either name."""
        return self.max_completion_tokens or self.max_tokens

    def top_logprobs_per_token(self) -> int | None:
        """How many alternatives to report per token; None for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    accepts_neutral: ClassVar[Neutral] = neutral.COMPLETION

    prompt: Prompt
    logprobs: Annotated[Integer, Field(ge=0, le=5)] | None = None

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each a text or its ids."""
        match self.prompt:
            case str() as text:
                return [text]
            case [int(), *_] as ids:
                return [cast(list[int], ids)]
            case several:
                return cast(Sequence[str | list[int]], several)


def _conflict(name: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(
        "conflicting_parameters", "{message}", {"name": name, "message": message}
    )
