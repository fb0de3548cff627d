"""Where a model comes from (folder, GGUF file, Hub) and what can be wrong with it. Nothing in this file needs torch.

A folder is checked before torch is loaded, so that a missing shard of 30 files costs no minute. The Hub is asked only
when a command is about to load a model; what it answers is put into words here.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rango.errors import InputError, first_line
from rango.files import ADAPTER_CONFIG, read_json
from rango.models.gguf import check_gguf, find_gguf
from rango.options import Quantisation

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Names the file of each tensor where the weights are cut into several."""
# Names of the files of which a tokenizer's folder has at least one.
_VOCABULARIES = ("tokenizer.json", "*vocab*", "*.model", "*.tiktoken", "tekken.json")
_MOST_PARTS = 10_000  # layers, or experts of one
_GPU_DRIVERS = ("nvidiactl", "dxg", "kfd")
# Weights that only torch.load reads.
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_CONVERSION = (
    "where you trust it, convert it: "
    'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "[kind.from_pretrained('{0}').save_pretrained('{1}') for kind in (M, T)]\" and give {1}"
)


def check_source(source: str, quantise: Quantisation = "none", *, described: bool = False) -> None:
    """Raise InputError where a model cannot be loaded, as far as that shows in its name, its folder and the extras.

    Of a folder these are its config.json, whether all files of weights are there and whole, and whether it has a
    tokenizer; a model that is only `described` needs its config.json alone. Of a GGUF file its header is read. A Hub id
    is not looked up.
    """
    _check_folder(source)
    check_quantise(quantise)
    if (file := find_gguf(source)) is not None:
        check_gguf(file)
    folder = Path(source)
    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError(
            f"model {source!r} cannot be loaded (config.json holds a {type(config).__name__}, not an object); "
            "give a Hub id or a folder of a causal language model"
        )
    _check_parts(source, config)
    check_unquantised(source, config)
    if not described:
        check_weights(folder)
        check_tokenizer(folder)


def _check_parts(source: str, config: Mapping[str, Any]) -> None:
    """Raise InputError for more layers or experts than any network has: they would be made one after another."""
    text = config.get("text_config")
    for values in (config, text if isinstance(text, Mapping) else {}):
        for key, value in values.items():
            if ("layer" in key or "expert" in key) and type(value) is int and value > _MOST_PARTS:
                raise InputError(
                    f"model {source!r}: {key} in config.json is {value:.6g}; expected at most {_MOST_PARTS:,}, take "
                    "the file from a copy"
                )


def check_at_hand(source: str, device: str = "auto") -> None:
    """Raise InputError where loading would end in a refusal, as far as that shows without torch.

    That is a GPU where no driver of one is installed, and a model that neither the cache nor the Hub has.
    """
    # NVIDIA's driver, Windows' for its Linux, AMD's. Where one is there, only torch can say how many devices it has.
    if device.startswith("cuda") and not any(Path("/dev", name).exists() for name in _GPU_DRIVERS):
        raise InputError(f"device {device!r}: this machine has 0 CUDA devices; use --device cpu")
    if Path(source).exists() or find_gguf(source) is not None:
        return
    from huggingface_hub import errors, hf_hub_download

    try:
        hf_hub_download(source, "config.json")
    except (errors.RepositoryNotFoundError, errors.HFValidationError, errors.LocalEntryNotFoundError) as error:
        raise loading_error(source, error) from None
    except (errors.HfHubHTTPError, OSError):
        return  # whatever else the Hub has to say, loading says it


def check_quantise(quantise: Quantisation) -> None:
    """Raise InputError where a base is to be quantised and the package for it is not installed."""
    if quantise != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"quantise is {quantise!r}, which needs bitsandbytes; pip install 'rango-lm[quantise]', or leave it out"
        )


def _check_folder(source: str) -> None:
    """Raise InputError where a model's name means a folder that holds no checkpoint; a Hub id is not looked up."""
    path = Path(source)
    means_folder = path.exists() or source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1
    # Of a GGUF file the rest is checked where it is read.
    if not means_folder or (path.suffix == ".gguf" and path.is_file()):
        return
    # transformers would put the adapter into the network unseen wherever PEFT is installed.
    if (path / "config.json").is_file():
        if (path / ADAPTER_CONFIG).is_file():
            raise InputError(
                f"model folder {source} also holds an adapter ({ADAPTER_CONFIG}), which would be on in the base model; "
                "move the adapter's files to a folder of their own and give that as --adapter"
            )
        return
    if any((path / name).is_file() for name in (ADAPTER_CONFIG, "run.yaml")):
        kind = "an adapter" if (path / ADAPTER_CONFIG).is_file() else "a run"
        raise InputError(
            f"model folder {source} is {kind}, not a model; give its base model as the model and this as --adapter"
        )
    problem = "has no config.json" if path.is_dir() else "does not exist" if not path.exists() else "is a file"
    raise InputError(f"model folder {source} {problem}; expected a Hub id or a folder with a transformers checkpoint")


def check_unquantised(source: str, config: Mapping[str, Any]) -> None:
    """Raise InputError for a checkpoint whose weights are stored in a quantised form.

    Each such form comes with layers of its own, of which some lose gradients or compute with rounded inputs.
    """
    stored = config.get("quantization_config")
    if isinstance(stored, Mapping):
        raise InputError(
            f"model {source} is stored quantised ({stored.get('quant_method', 'in an unnamed way')}); give the model "
            "that it was made from, with --quantise nf4 or int8 where memory is short"
        )


def check_tokenizer(folder: Path) -> None:
    """Raise InputError for a folder without a tokenizer: transformers would make an empty one of the model's kind."""
    if not any(file for pattern in _VOCABULARIES for file in folder.glob(pattern)):
        raise InputError(f"model folder {folder} has no tokenizer; put the model's tokenizer.json into it")


def check_weights(folder: Path) -> None:
    """Raise InputError where a file of weights is missing or cut off, or where all are pickles."""
    if (folder / WEIGHTS_FILE).is_file():
        names = [WEIGHTS_FILE]
    elif (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise InputError(f"{folder / INDEX_FILE} has no weight_map of tensors to files; download it again")
        names = sorted(set(places.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"model folder {folder} lacks {len(missing)} of the {len(names)} files of its weights ({missing[0]}"
                f"{', ...' if len(missing) > 1 else ''}); download them again"
            )
    else:
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"model folder {folder} has its weights as a pickle only ({pickles[0]}), and reading a pickle can run "
                f"code; {_conversion(str(folder))}"
            )
        raise InputError(
            f"model folder {folder} has no weights; expected {WEIGHTS_FILE} or {INDEX_FILE} with its files"
        )
    for name in names:
        _check_whole(folder / name)


def _conversion(source: str) -> str:
    return _CONVERSION.format(source, f"{Path(source).resolve().name}-safe")


def _check_whole(path: Path) -> None:
    """Raise InputError for a safetensors file that is shorter or longer than its header says.

    The file begins with the length of the header, 8 bytes; the header, JSON, says where each tensor begins and ends.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(8)
        if beginning == b"version ":
            raise InputError(f"{path} is a pointer of Git LFS, not the file itself; run git lfs pull in its folder")
        length = int.from_bytes(beginning, "little")
        header: Any = None
        if len(beginning) == 8 and length <= size - 8:
            try:
                header = json.loads(file.read(length))
                ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
                expected = 8 + length + max(ends, default=0)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                raise InputError(f"{path} is no safetensors file: its header is damaged; download it again") from None
    if header is None:
        raise InputError(f"{path} is cut off or no safetensors file ({size:,} bytes); download it again")
    if size != expected:
        raise InputError(f"{path} is damaged: {size:,} bytes, its header says {expected:,}; download it again")


def loading_error(source: str, error: BaseException) -> InputError:
    """The one line for what a library raised while it loaded a model: the Hub's answer, a lack of memory, damage."""
    reason, advice = _reason(source, error) or (
        # Libraries write paragraphs, and some put nothing into the first line.
        next((line.strip() for line in str(error).splitlines() if line.strip()), first_line(error))[:300],
        "give a Hub id or a folder of a causal language model",
    )
    return InputError(f"model {source!r} cannot be loaded ({reason}); {advice}")


def _reason(source: str, error: BaseException) -> tuple[str, str] | None:
    """Why a model is not there and what to do, where an error or one of its causes shows it; None where none does."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{source}"
    for cause in _causes(error):
        # A gated repository is also one that is not found: the order matters.
        if isinstance(cause, errors.GatedRepoError):
            return "its repository is gated", f"ask for access at {page} and log in with hf auth login"
        if isinstance(cause, errors.RepositoryNotFoundError | errors.HFValidationError):
            return "the Hub has no such repository, or it is private", (
                "check the spelling, log in with hf auth login, or give a folder"
            )
        if isinstance(cause, errors.OfflineModeIsEnabled) or (
            constants.HF_HUB_OFFLINE and isinstance(cause, errors.LocalEntryNotFoundError)
        ):
            return "it is not in the local cache, and HF_HUB_OFFLINE forbids asking the Hub", (
                "give a Hub id that has been downloaded, or a folder"
            )
        # The HTTP library has changed its name once.
        of_network = isinstance(cause, ConnectionError) or type(cause).__module__.startswith("httpx")
        if of_network or isinstance(cause, errors.LocalEntryNotFoundError):
            return "the Hub cannot be reached, and the model is not in the local cache", (
                "check the network, or give a folder"
            )
        if "trust_remote_code" in str(cause):
            return "its architecture is code in its own repository, which is never run", (
                "give a model whose architecture transformers itself has"
            )
        if f"no file named {WEIGHTS_FILE}" in str(cause) or f"a file named {WEIGHTS_FILE}" in str(cause):
            return "it has no weights as safetensors, and reading a pickle can run code", _conversion(source)
        if type(cause).__name__ == "OutOfMemoryError" or isinstance(cause, MemoryError):
            return "the memory is too small for it", "use --quantise nf4, --device cpu or a smaller model"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
