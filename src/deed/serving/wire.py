"""What goes over the wire: requests and answers as pydantic models, from which the OpenAPI description is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Box = tuple[float, float, float, float]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Generation(BaseModel):
    """How an answer is generated; every field may be left out."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        default=None, max_length=200, description="Name of the model; the first of its kind without it."
    )
    threshold: Finite | None = Field(default=None, ge=0, le=10, description="Exit threshold; above 1: full depth.")
    exact: bool = Field(default=False, description="Every token is full depth's: what leaves early is verified.")
    max_new_tokens: int | None = Field(default=None, ge=1, le=1_000_000, description="The server's limit holds, too.")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Of sampling; the same seed gives the same tokens."
    )
    temperature: Finite | None = Field(default=None, ge=0, le=100, description="0, or left out: greedy.")
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=1_000_000)
    stop: str | list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None, max_length=64, description="Texts at which the answer ends, without them."
    )
    exit_schedule: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="Forced depths of the tokens, over and over, in place of the threshold: for measurements.",
    )
    deadline: Finite | None = Field(
        default=None, gt=0, le=1e6, description="Seconds until the whole answer has to be there."
    )


class GenerateRequest(Generation):
    """`POST /generate`: one input, and how it is answered."""

    task: str | None = Field(
        default=None, max_length=40, description="Of the pipelines: translate, summarize, caption …"
    )
    text: str | None = Field(default=None, description="A text, or the question about a picture or document.")
    image: str | None = Field(
        default=None, description="A picture as base64 or a data: URI; addresses are not opened."
    )
    audio: str | None = Field(default=None, description="A recording, likewise.")
    document: str | None = Field(default=None, description="A PDF or the picture of a page, likewise.")
    page: int = Field(default=1, ge=1, le=1_000_000, description="Of a document, counted from 1.")
    source: str | None = Field(default=None, max_length=40, description="Language of a text to translate.")
    target: str | None = Field(default=None, max_length=40, description="Language wanted.")


class AskRequest(Generation):
    """`POST /ask`: a question about a picture or a page."""

    question: str | None = Field(default=None, description="May be left out for captions.")
    file: str | None = Field(default=None, description="A picture or PDF as base64 or a data: URI.")
    page: int | Literal["all"] = Field(default=1, description="Counted from 1; all: the page with the surest answer.")
    task: Literal["document", "vqa", "caption", "refer"] | None = Field(
        default=None,
        description="document: by the words of the page. The others are for pictures; refer finds what is described.",
    )
    abstain_below: Finite | None = Field(default=None, ge=0, description="Answers below this confidence are not sure.")
    stream: bool = Field(default=False, description="Server-sent events: page, token …, done.")
    preview: bool = Field(default=False, description="While streaming, send the page as it was read, as a picture.")


class TokenOut(BaseModel):
    """A token of an answer."""

    id: int
    text: str
    depth: int = Field(description="The decoder layer that gave it.")
    confidence: float | None = Field(default=None, description="The probability that its exit gave it.")


class Times(BaseModel):
    """Seconds."""

    reading: float = Field(default=0, description="Until the input was decoded and encoded as tokens.")
    queued: float = 0
    first_token: float = Field(default=0, description="From the submission, the encoder included.")
    total: float = 0


class GenerateResponse(BaseModel):
    """An answer, and how deep its tokens went."""

    model: str
    task: str
    text: str
    tokens: list[TokenOut]
    finish_reason: str = Field(description="stop, or length where the most tokens allowed were reached.")
    mean_depth: float | None = None
    layers: int = Field(description="Of the decoder: full depth.")
    saving: float | None = Field(default=None, description="Share of the decoder's layers that were not needed.")
    accepted: int | None = Field(
        default=None, description="Of an exact answer, the drafts that the last layer agreed with."
    )
    threshold: float | list[float] | None = None
    times: Times = Times()


class Evidence(BaseModel):
    """Where a value of an answer stands."""

    key: str = Field(default="", description="Its name, where the answer is a JSON object.")
    text: str
    boxes: list[Box] = Field(description="x0, y0, x1, y1, each 0 to 1 of the page as it was read; one for each line.")


class AskResponse(GenerateResponse):
    """An answer to a question about a picture or a page."""

    question: str | None = None
    answer: str
    fields: dict[str, Any] | None = Field(
        default=None, description="The answer's fields where it is a whole JSON object."
    )
    confidence: float | None = Field(
        default=None, description="How likely it is to be right, where that is calibrated."
    )
    sure: bool | None = Field(default=None, description="Whether the confidence is high enough; false: not sure.")
    evidence: list[Evidence] = []
    page: int = 1
    pages: int = 1
    size: tuple[int, int] = Field(default=(0, 0), description="Of the page as it was read, in pixels.")
    rotation: int = Field(default=0, description="Degrees clockwise by which the page was turned to be upright.")
    notes: list[str] = []


class ModelInfo(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "deed"
    type: str
    tasks: list[str]
    layers: int | None = None
    threshold: float | list[float] | None = None
    calibrated: bool | None = None
    loaded: bool = Field(default=True, description="False: it is loaded when it is asked for.")


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class TranslateRequest(BaseModel):
    """LibreTranslate's `POST /translate`."""

    model_config = ConfigDict(extra="ignore")

    q: str | list[str]
    source: str = Field(default="auto", max_length=40)
    target: str = Field(max_length=40)
    format: Literal["text"] = "text"
    alternatives: int = Field(default=0, ge=0, le=0, description="Not supported: 0.")
    api_key: str | None = None


class DetectRequest(BaseModel):
    """LibreTranslate's `POST /detect`."""

    model_config = ConfigDict(extra="ignore")

    q: str = Field(min_length=1)
    api_key: str | None = None


class Detected(BaseModel):
    """A language and how sure that is, 0 to 100."""

    language: str
    confidence: float


class TranslateResponse(BaseModel):
    """LibreTranslate's answer; lists where a list was asked."""

    translatedText: str | list[str]
    detectedLanguage: Detected | list[Detected] | None = None


class Language(BaseModel):
    """A language that the model reads, and those that it translates it to."""

    code: str
    name: str
    targets: list[str]


class Health(BaseModel):
    """Of `/healthz` and `/readyz`."""

    status: str
    models: list[str] = []
    loaded: list[str] = Field(default=[], description="Of the models: the others are loaded when they are asked for.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: int


class ErrorResponse(BaseModel):
    """Every error's body, in OpenAI's shape."""

    error: ErrorDetail


class LibreError(BaseModel):
    """An error's body on LibreTranslate's endpoints."""

    error: str
