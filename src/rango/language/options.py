"""Every option of the commands for small language models: pretrain, generate, score-text and spell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rango.config import Config, Seed
from rango.errors import InputError
from rango.options import ModelOptions

MOST_BY_DEFAULT = 8000  # tokens of a vocabulary whose size is not given
SMALLEST_VOCABULARY = 257  # 256 bytes and the end of text


class NGramOptions(Config):
    """Which n-grams are counted and how their counts become probabilities."""

    order: Annotated[int, Field(ge=1, le=5)] = 3
    """Tokens of the longest n-grams: each token is predicted from the order - 1 before it."""
    smoothing: Literal["kneser-ney", "stupid-backoff", "add-k", "maximum-likelihood"] = "kneser-ney"
    """kneser-ney (interpolated), stupid-backoff (scores that do not sum to one), add-k, or maximum-likelihood (n-grams
    that the text lacks are impossible: -inf)."""
    k: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Only with add-k, which adds it to every count; 1 when absent."""
    discount: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only with kneser-ney: one fixed discount for the orders above 1 (tokens that the text lacks are then impossible).
    When absent, modified Kneser-Ney estimates three discounts for each order from the text."""
    unit: Literal["tokens", "words"] = "tokens"
    """tokens of the byte-level BPE tokenizer, or words and punctuation marks, with `<unk>` for words that the text has
    once only or that are beyond --vocabulary."""
    arpa: bool = False
    """Also write the model to model.arpa in the folder."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.k is not None and self.smoothing != "add-k":
            raise ValueError(f"k is {self.k:g} but smoothing is {self.smoothing}: k is of add-k, leave it out")
        if self.discount is not None and self.smoothing != "kneser-ney":
            raise ValueError(
                f"discount is {self.discount:g} but smoothing is {self.smoothing}: it is of kneser-ney, leave it out"
            )
        if self.arpa and self.smoothing in ("stupid-backoff", "add-k"):
            raise ValueError(
                f"arpa with smoothing {self.smoothing}: an ARPA file cannot say how it backs off; "
                "use kneser-ney or maximum-likelihood"
            )
        return self


ARCHITECTURES = ("phi", "llama", "gpt2", "mistral", "qwen2")
_OF_TRANSFORMERS = ("architecture", "heads", "tie_embeddings")
_OF_FILES = ("hidden", "layers", "heads", "tie_embeddings")
# Options that no n-gram has: it counts the whole text once, without layers, windows or budget.
_OF_NETWORKS = (
    *_OF_TRANSFORMERS,
    *("hidden", "layers", "lstm", "context", "tokens", "minutes", "batch_tokens", "learning_rate"),
    *("warmup", "weight_decay", "clip", "evaluate_every", "save_minutes"),
)
_MOST_LSTM_LAYERS = 3


class LSTMOptions(Config):
    """What only an LSTM has."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which a number is dropped while training, after the embedding and after each layer."""


class PretrainConfig(Config):
    """The size of a language model, how long it is trained and how."""

    model: Literal["transformer", "lstm", "ngram"] = "transformer"
    """The kind of language model."""
    architecture: str = "phi"
    """Of a transformer: phi, llama, gpt2, mistral, qwen2, or the path of any causal model's config.json, whose sizes
    then stand for hidden, layers, heads and tie-embeddings."""
    hidden: Annotated[int, Field(ge=8)] = 256
    """Hidden size; in a transformer a multiple of four times the heads."""
    layers: Annotated[int, Field(ge=1)] | None = None
    """Number of layers: 4 in a transformer and 2 in an LSTM (which has 1 to 3) when absent."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads of each layer."""
    lstm: LSTMOptions = LSTMOptions()
    """Only with model lstm."""
    ngram: NGramOptions = NGramOptions()
    """Only with model ngram, which has no other options than these, vocabulary and tokenizer."""
    vocabulary: Annotated[int, Field(ge=SMALLEST_VOCABULARY)] | None = None
    """Tokens of the byte-level BPE tokenizer that is trained on the text: 256 bytes, end of text, and merges. When
    absent 8000, or as many as a smaller text has pairs for."""
    tokenizer: Path | None = None
    """Folder of an existing model whose tokenizer is used; none is trained then, and vocabulary does not count."""
    context: Annotated[int, Field(ge=8)] = 256
    """Tokens of a training window; a transformer takes no longer input."""
    tie_embeddings: bool = False
    """Use one matrix for the token embedding and the output head; an LSTM always does."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget: train on this many tokens (the same seed then gives the same model); three passes over the text when
    neither budget is given."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Budget: train for this many minutes of wall clock (the result depends on the machine)."""
    batch_tokens: Annotated[int, Field(ge=8)] = 2048
    """Tokens of an optimizer step, rounded down to whole windows (at least one)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW; it then falls along a cosine to a tenth."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the budget over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of AdamW, on matrices only."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    evaluate_every: Annotated[int, Field(ge=1)] = 500
    """Optimizer steps between measurements of the held-out loss."""
    save_minutes: Annotated[float, Field(ge=0)] = 5.0
    """Minutes between saved states, from which a repeated command goes on."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; weights and moments are float32. auto: bfloat16 where the machine has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    seed: Seed = 0
    """Seed of the initial weights and of the order of the windows."""

    @property
    def depth(self) -> int:
        """The number of layers, also when `layers` is absent."""
        return self.layers or {"transformer": 4, "lstm": 2}[self.model]

    @property
    def architecture_file(self) -> bool:
        """Whether `architecture` is the path of a config.json."""
        return self.architecture not in ARCHITECTURES

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tokens is not None and self.minutes is not None:
            raise ValueError(f"tokens is {self.tokens} and minutes is {self.minutes}: give one budget")
        if self.architecture_file and not self.architecture.endswith(".json"):
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture is {self.architecture!r}: expected {known} or the path of a config.json")
        if self.model == "ngram":
            self._check_at_default("model ngram", _OF_NETWORKS, has="the ngram options, vocabulary and tokenizer")
            if self.tokenizer is not None and self.ngram.unit == "words":
                raise ValueError("tokenizer and ngram.unit words: the given tokenizer decides, leave ngram.unit out")
        elif self.model == "lstm":
            self._check_at_default("model lstm", ("ngram", *_OF_TRANSFORMERS), has="hidden, layers and lstm.dropout")
            if self.depth > _MOST_LSTM_LAYERS:
                raise ValueError(f"layers is {self.layers}: expected 1 to {_MOST_LSTM_LAYERS} with model lstm")
        else:
            self._check_at_default("model transformer", ("lstm", "ngram"), has="architecture, hidden, layers and heads")
            multiple = 4 * self.heads  # rotary embeddings turn pairs of numbers, and Phi turns half of each head
            if self.architecture_file:
                self._check_at_default(f"architecture {self.architecture}", _OF_FILES, has="these sizes in the file")
            elif self.hidden % multiple:
                raise ValueError(
                    f"hidden {self.hidden} with {self.heads} heads: expected a multiple of {multiple} (4 x heads)"
                )
        return self

    def _check_at_default(self, what: str, names: tuple[str, ...], *, has: str) -> None:
        """Check that options which do not apply to this kind of model are at their default."""
        for name in names:
            value, fields = getattr(self, name), type(self).model_fields
            if value != fields[name].default:
                if isinstance(value, Config):  # name the options of the group that were changed
                    fields = type(value).model_fields
                    value = ", ".join(f"{key} {part}" for key, part in value if part != fields[key].default)
                raise ValueError(f"{name} ({value}) does not apply to {what}, which has {has}; leave it out")


class GenerateOptions(ModelOptions):
    """How a text is continued."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """The logits are divided by it before drawing; 0 always takes the most probable token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the fewest tokens, the most probable ones, that hold this share of the probability."""
    max_tokens: Annotated[int, Field(ge=1)] = 200
    """Write at most this many tokens; it ends earlier with the end of the text or when the model's context is full."""
    seed: Seed = 0
    """Seed of the draws: the same seed gives the same text."""
    adapter: Path | None = None
    """A run directory (its best checkpoint is taken) or an adapter folder in PEFT's format."""


class SpellingOptions(Config):
    """How misspelt words are found."""

    threshold: float = 0.0
    """A word is flagged when the log-odds (nats) that another word was meant exceed this: at 0 where it is more
    probable than not; higher flags less."""
    error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Probability that a word is mistyped, before it is seen."""
    unlisted: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Factor on the language model's probability of a word as typed if the word list lacks it: models give strings that
    are no words too much probability."""
    unlisted_names: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """The same factor for a word with a capital inside a sentence: most are names that list and model have never seen,
    and models give those too little probability."""
    candidates: Annotated[int, Field(ge=1)] = 20
    """Known words near each word that the language model compares."""


def check_readable(text: str, where: str) -> None:
    """Raise InputError where a text is blank, or as `check_characters`: no model can score it."""
    if not text.strip():
        raise InputError(f"{where} is blank; give at least one word")
    check_characters(text, where)


def check_characters(text: str, where: str) -> None:
    """Raise InputError where a text cannot be written as UTF-8, because it holds half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # Python reads a byte of the command line that is not UTF-8 as U+DC80 to U+DCFF (PEP 383).
        what = f"byte {code - 0xDC00:#04x}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}, half a surrogate pair,"
        raise InputError(f"{where}: {what} at character {error.start + 1} is not UTF-8; give UTF-8 text") from None
