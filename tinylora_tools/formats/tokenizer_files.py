"""A tokenizer's files, as transformers saves them: which they are, what in them matters, and how two differ.

Two releases of transformers save one tokenizer in different bytes, and each training saves it anew. So it is what the
files say that is compared: the vocabulary, how text is split and put together, special tokens, chat templates.

Source: PreTrainedTokenizerBase.save_pretrained in transformers 4.57 and 5.23, and the serialisation of tokenizers 0.22.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..inputs import read_input
from .tokenizer_json import read_tokenizer_json

_TOKENIZER, _CONFIG, _SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
_ADDED, _TEMPLATE, _TEMPLATES = "added_tokens.json", "chat_template.jinja", "additional_chat_templates"
_PROCESSORS_TEMPLATE = "chat_template.json"

#: Vocabularies of tokenizers that aren't in tokenizer.json alone.
_VOCABULARIES = (
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "sentencepiece.model", "spm.model", "bpe.codes", "tekken.json", "tiktoken.model", "normalizer.json",
)  # fmt: skip
_NAMES = {_TOKENIZER, _CONFIG, _SPECIAL, _ADDED, _TEMPLATE, _PROCESSORS_TEMPLATE, *_VOCABULARIES}

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

#: Settings that change what a text becomes; compared where both files have them, since defaults are left out.
_SETTINGS = ("add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "padding_side", "truncation_side")

#: What tokenizers takes for an entry that older releases left out, where that isn't nothing.
_DEFAULTS = {"use_regex": True, "split": True}

_VOCABULARY = "the vocabulary"

#: How tokenizer.json splits a text and puts it together.
_PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def is_tokenizer_file(name: str) -> bool:
    """Whether a file, by its path in a model's directory, is a tokenizer's or a chat template."""
    return name in _NAMES or name.endswith(".tiktoken") or is_template(name)


def is_template(name: str) -> bool:
    """Whether it is a chat template alone."""
    return name in (_TEMPLATE, _PROCESSORS_TEMPLATE) or name.startswith(f"{_TEMPLATES}/")


@dataclass(frozen=True, eq=False)
class TokenizerFiles:
    """A tokenizer's files by their names in `directory`."""

    directory: Path
    files: Mapping[str, Path]

    def forgotten(self) -> TokenizerFiles:
        """The same files, with nothing of what was read kept in memory."""
        return TokenizerFiles(self.directory, self.files)

    @property
    def is_whole(self) -> bool:
        """Whether there is more than chat templates."""
        return not all(is_template(name) for name in self.files)

    def replaces(self, name: str) -> bool:
        """Whether a file of a model is no longer needed beside these."""
        return is_tokenizer_file(name) if self.is_whole else is_template(name)

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Tokens to their ids, added ones included; None where no file that can be read here has them."""
        found: dict[str, int] = {}
        model = self._json(_TOKENIZER).get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, dict):
            found |= vocab
        elif isinstance(vocab, list):  # Unigram: tokens with their scores
            found |= {str(pair[0]): i for i, pair in enumerate(vocab) if isinstance(pair, list) and pair}
        elif "vocab.json" in self.files:
            found |= self._json("vocab.json")
        elif "vocab.txt" in self.files:
            found |= {token: i for i, token in enumerate(self._text("vocab.txt").splitlines())}
        found |= self._json(_ADDED)
        found |= dict(self._added())
        return {token: i for token, i in found.items() if isinstance(i, int)} or None

    def _added(self) -> Iterator[tuple[str, int]]:
        listed = self._json(_TOKENIZER).get("added_tokens")
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict) and isinstance(one.get("content"), str):
                yield one["content"], one.get("id", -1)
        decoder = self._json(_CONFIG).get("added_tokens_decoder")
        for number, one in (decoder if isinstance(decoder, dict) else {}).items():
            if isinstance(one, dict) and isinstance(one.get("content"), str) and number.isdigit():
                yield one["content"], int(number)

    @property
    def pad_token_id(self) -> int | None:
        """Of the padding token that the files name; None where they name none, or not its id."""
        token = self.special_tokens.get("pad_token")
        return None if token is None else (self.vocabulary or {}).get(token)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in _SPECIAL_TOKENS:
            for file in (_CONFIG, _SPECIAL):
                token = self._json(file).get(name)
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    found.setdefault(name, token)
        return found

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """By name, "default" the one that a tokenizer has alone."""
        found: dict[str, str] = {}
        for file in (_PROCESSORS_TEMPLATE, _CONFIG):
            stated = self._json(file).get("chat_template")
            if isinstance(stated, str):
                found["default"] = stated
            for one in stated if isinstance(stated, list) else []:
                if isinstance(one, dict):
                    found[str(one.get("name"))] = str(one.get("template"))
        for name in self.files:
            if name == _TEMPLATE:
                found["default"] = self._text(name)
            elif name.startswith(f"{_TEMPLATES}/"):
                found[Path(name).stem] = self._text(name)
        return {name: text.strip() for name, text in found.items()}

    def _parts(self) -> dict[str, Any]:
        """What a text becomes depends on these."""
        whole, config = self._json(_TOKENIZER), self._json(_CONFIG)
        parts: dict[str, Any] = {_VOCABULARY: self.vocabulary}
        if isinstance(model := whole.get("model"), dict):
            settings = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
            parts |= {"the merges": model.get("merges"), "the model's settings": settings}
            parts |= {f"the {name}": whole.get(name) for name in _PIPELINE}
        else:
            parts |= {name: read_input(self.files[name]) for name in _VOCABULARIES if name in self.files}
        parts |= {name: self.special_tokens.get(name) for name in _SPECIAL_TOKENS}
        return parts | {name: config[name] for name in _SETTINGS if name in config}

    def differences(self, other: TokenizerFiles) -> list[str]:
        """What differs in another tokenizer, in words; nothing where both make the same of every text, or where the
        other is no more than a chat template that is the same."""
        if self._same_bytes(other):
            return []
        found = []
        if other.is_whole:
            mine, its = self._parts(), other._parts()
            names = dict.fromkeys([*mine, *its])
            if ("the merges" in mine) != ("the merges" in its):  # one alone has tokenizer.json, which says more
                names = dict.fromkeys([_VOCABULARY, *_SPECIAL_TOKENS, *_SETTINGS])
            for name in names:
                one, two = mine.get(name), its.get(name)
                stated = name not in _SETTINGS or (name in mine and name in its)  # defaults are left out
                if stated and not (one == two or (name != _VOCABULARY and _alike(one, two))):
                    found.append(_described(name, one, two))
        if self.chat_templates != other.chat_templates:
            found.append("the chat template")
        return found

    def _same_bytes(self, other: TokenizerFiles) -> bool:
        return self.files.keys() == other.files.keys() and all(
            path.stat().st_size == other.files[name].stat().st_size
            and read_input(path) == read_input(other.files[name])
            for name, path in self.files.items()
        )

    def _text(self, name: str) -> str:
        path = self.files.get(name)
        return "" if path is None else read_input(path).decode("utf-8", errors="replace")

    def _json(self, name: str) -> dict[str, Any]:
        """A file's JSON object, read once; empty where there is none, or it isn't one."""
        return self._objects.get(name, {})

    @cached_property
    def _objects(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name in self.files:
            if name.endswith(".json"):
                try:
                    value = (
                        read_tokenizer_json(self.files[name]) if name == _TOKENIZER else json.loads(self._text(name))
                    )
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict):
                    found[name] = value
        return found


def find_tokenizer(directory: Path) -> TokenizerFiles | None:
    """The tokenizer in a directory; None where there is no file of one."""
    if not directory.is_dir():
        return None
    beside = [*directory.iterdir(), *(directory / _TEMPLATES).glob("*.jinja")]
    files = {path.relative_to(directory).as_posix(): path for path in sorted(beside) if path.is_file()}
    files = {name: path for name, path in files.items() if is_tokenizer_file(name)}
    return TokenizerFiles(directory, files) if files else None


def _alike(one: Any, two: Any) -> bool:
    """Whether two values mean the same: an entry that only one of them has means nothing where it is the default."""
    if isinstance(one, dict) and isinstance(two, dict):
        return all(_alike(one.get(key, _default(key)), two.get(key, _default(key))) for key in {**one, **two})
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return all(_alike(*pair) for pair in zip(one, two, strict=True))
    return bool(one == two or (not one and not two))


def _default(key: str) -> Any:
    return _DEFAULTS.get(key)


def _described(name: str, one: Any, two: Any) -> str:
    if name in _SPECIAL_TOKENS or name in _SETTINGS:
        return f"{name} ({_quoted(two)}, not {_quoted(one)})"
    if name == _VOCABULARY:
        if one is None or two is None:
            return f"{name} (which is in a file that can't be compared)"
        more = [token for token in two if token not in one]
        fewer = [token for token in one if token not in two]
        told = [
            f"{len(tokens)} {word}: {_few(tokens)}" for tokens, word in ((more, "more"), (fewer, "fewer")) if tokens
        ]
        return f"{name} ({'; '.join(told) or 'other ids'})"
    return name


def _quoted(value: Any) -> str:
    return "none" if value is None else repr(value) if isinstance(value, str) else str(value).lower()


def _few(tokens: list[str]) -> str:
    return ", ".join(tokens[:3]) + (", ..." if len(tokens) > 3 else "")
