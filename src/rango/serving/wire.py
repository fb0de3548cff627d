"""The System One format: what a request may hold, and the answer to one that may not, with its place and status.

body ── read_request ──> Request: model, state, questions by name
                  └────> RequestError: status, detail (what and where), headers
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rango.errors import InputError

MOST_LABELS, MOST_LEVELS = 255, 10
DEEPEST = 32
"""Values within values; far more than a person writes, and far less than the parser's own limit."""


class RequestError(InputError):
    """A request that is not answered: the status, and what is wrong and where.

    The official client makes one of its own errors of it, by the status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        loc: tuple[str | int, ...] = (),
        kind: str = "value_error",
        headers: Mapping[str, str] | None = None,
        entries: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.entries = entries or ([{"loc": ["body", *loc], "msg": message, "type": kind}] if loc else None)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response: `detail` is a list of places where the request has them, or else a sentence."""
        return {"detail": self.entries if self.entries is not None else str(self)}


def _check_content(value: Any) -> Any:
    if not isinstance(value, str | dict | list):
        raise PydanticCustomError("content_type", "expected a text, an object or an array")
    return value


def _check_described(value: Any) -> Any:
    return value if value is None else _check_content(value)


Content: TypeAlias = Annotated[Any, AfterValidator(_check_content)]
"""A text, an object or an array."""
Described: TypeAlias = Annotated[Any, AfterValidator(_check_described)]
"""A description, or null."""


class _Part(BaseModel):
    # A misspelt key of a question would otherwise be a question that was asked without it.
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChoiceQuestion(_Part):
    """Which of the labels?"""

    type: Literal["choice"]
    instructions: Described = None
    criteria: Annotated[dict[str, Described], Field(min_length=1, max_length=MOST_LABELS)]
    """Label → what it means, or null; in the order in which they are asked and answered."""

    @model_validator(mode="after")
    def _labels_differ(self) -> ChoiceQuestion:
        _check_texts(list(self.criteria), "label")
        return self


class NoulCriteria(_Part):
    """What counts as yes and what as no."""

    true: Described = None
    false: Described = None


class NoulQuestion(_Part):
    """Is it so?"""

    type: Literal["noul"]
    instructions: Described = None
    criteria: NoulCriteria | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> NoulQuestion:
        described = self.criteria is not None and (self.criteria.true is not None or self.criteria.false is not None)
        if self.instructions is None and not described:
            raise PydanticCustomError("missing", "expected instructions, or criteria that describe true or false")
        return self


class ScoreQuestion(_Part):
    """Which of the levels, from the lowest?"""

    type: Literal["score"]
    instructions: Described = None
    criteria: Annotated[list[Content], Field(min_length=1, max_length=MOST_LEVELS)]
    """What each level means, the lowest first."""

    @model_validator(mode="after")
    def _levels_differ(self) -> ScoreQuestion:
        _check_texts([as_text(level) for level in self.criteria], "level")
        return self


class BoxQuestion(_Part):
    """Where in the image? Refused: there are no images."""

    type: Literal["box"]
    instructions: Described = None

    @model_validator(mode="after")
    def _refused(self) -> BoxQuestion:
        raise PydanticCustomError("images", "images are not answered here; ask choice, noul or score about a text")


Question: TypeAlias = Annotated[
    ChoiceQuestion | NoulQuestion | ScoreQuestion | BoxQuestion, Field(discriminator="type")
]


class Request(BaseModel):
    """One state, and the questions about it. Further keys are ignored, as the official client may send some."""

    model_config = ConfigDict(frozen=True)

    model: str
    state: Content
    questions: Annotated[dict[str, Question], Field(min_length=1)]
    assets: Any = None

    @model_validator(mode="after")
    def _without_images(self) -> Request:
        if self.assets is not None:
            raise PydanticCustomError("images", "assets are images, which are not answered here; leave them out")
        return self


def _check_texts(texts: list[str], kind: str) -> None:
    """Refuse labels that are no text, or that are equal up to the spaces around them."""
    stripped = [text.strip() for text in texts]
    for number, text in enumerate(stripped):
        if not text:
            raise PydanticCustomError("blank", "{kind} {number} is no text", {"kind": kind, "number": number})
        if (first := stripped.index(text)) != number:
            raise PydanticCustomError(
                "equal",
                "{kind}s {first} and {number} are equal ({text})",
                {"kind": kind, "first": first, "number": number, "text": repr(text[:80])},
            )


def as_text(content: Any) -> str:
    """What a model reads of a state, of instructions or of a description.

    >>> print(as_text({"subject": "Charged twice", "priority": 2}))
    subject: Charged twice
    priority: 2
    """
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and not any(isinstance(value, dict | list) for value in content.values()):
        return "\n".join(
            f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in content.items()
        )
    return json.dumps(content, ensure_ascii=False)


class _Repeats(dict[str, Any]):
    """An object in which a key stands twice, which Python would make one of."""

    repeated: str = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    repeats, seen = _Repeats(values), set[str]()
    for key, _ in pairs:
        repeats.repeated = key if key in seen else repeats.repeated
        seen.add(key)
    return repeats


def _no_number(text: str) -> Any:
    raise ValueError(text)


def read_request(body: bytes) -> Request:
    """The request in the body of a POST.

    Raises:
        RequestError: 400 for no JSON; 422 for anything else that cannot be asked, with its place.
    """
    try:
        # Python alone takes NaN and a key that stands twice.
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise RequestError(400, "the body is not UTF-8; send JSON as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error.msg}, line {error.lineno})") from None
    except RecursionError:
        raise RequestError(422, f"values are nested deeper than {DEEPEST}", loc=("state",), kind="too_deep") from None
    except ValueError:
        raise RequestError(400, "the body has a number that JSON does not have, or one of too many digits") from None
    _check_values(value)
    try:
        return Request.model_validate(value)
    except ValidationError as error:
        entries = [
            {"loc": ["body", *each["loc"]], "msg": each["msg"], "type": each["type"]}
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        first = ".".join(map(str, entries[0]["loc"][1:]))
        raise RequestError(422, f"{first}: {entries[0]['msg']}", entries=entries) from None


def _check_values(body: Any) -> None:
    """Raise RequestError with the place of what is nested too deep, of a key that stands twice, of half a character."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    while waiting:
        place, value = waiting.pop()
        if len(place) > DEEPEST:
            raise RequestError(422, f"values are nested deeper than {DEEPEST}", loc=place[:3], kind="too_deep")
        if isinstance(value, _Repeats):
            raise RequestError(422, f"{value.repeated[:80]!r} stands twice", loc=place or ("model",), kind="equal")
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        for text in texts:
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise RequestError(422, "a text holds half a surrogate pair", loc=place or ("state",), kind="unicode")
        if isinstance(value, dict):
            waiting.extend(((*place, key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            waiting.extend(((*place, number), inner) for number, inner in enumerate(value))
