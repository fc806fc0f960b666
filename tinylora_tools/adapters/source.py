"""What stands at a path, told apart and opened once: whatever form it has, it becomes the same open adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bases.base import Base, open_base
from ..core.streams.projection import DEFAULT_STREAM
from ..errors import MismatchError, UndeterminedError, UnsupportedError
from ..formats.checkpoint import is_checkpoint
from ..formats.packed import Packed
from ..formats.peft.adapter import PeftAdapter, adapter_in
from ..formats.peft.keys import is_adapter
from ..formats.peft.release import Seeding
from ..formats.tensors import TensorFile
from ..formats.third_party import Found
from ..progress import NoProgress, Progress
from ..sources.locate import HUB_PREFIX, locate, locate_base
from ..wording import argument
from .answers import Answers
from .content import another_project, content_of
from .load import Adapter, ModuleOrder, order_in

PEFT, PACKED = "peft", "packed"


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter's files, told apart, with their header read; `open` makes an adapter of it.

    Attributes
    ----------
    path : Path
        What was named: a directory or a file.
    form : str
        "peft", "packed", or another project's dialect.
    content : PeftAdapter, Packed, Found or Adapter
        What was read to tell; an Adapter where one was given that is open already.
    answers : Answers, optional
        What the user says of a third-party adapter.
    """

    path: Path
    form: str
    content: PeftAdapter | Packed | Found | Adapter
    answers: Answers | None = field(default=None)

    @property
    def base_name(self) -> str | None:
        """What the adapter calls its base; None where it doesn't, or only its whole reading tells."""
        return None if isinstance(self.content, Found) else self.content.config.base_model_name_or_path

    @property
    def named_base(self) -> Base | None:
        """The base that the adapter names, where it is at hand."""
        content = self.content
        if isinstance(content, Adapter):
            return content.base
        name = self.base_name
        if isinstance(content, Found) or not name:
            return None
        beside = content.path.parent if isinstance(content, Packed) else content.directory
        found = locate_base(name, content.config.revision, beside)
        return None if found is None else Base(found)

    def inputs(self, base: Base | None = None) -> list[Path]:
        """Paths that an output may neither be, nor lie in, nor hold: the adapter's, its base's, and what tells more."""
        found = [self.path, *(self.answers.files if self.answers else []), *([base.path] if base else [])]
        named = self.named_base
        return [*found, named.path] if named is not None and is_checkpoint(named.path) else found

    def open(
        self,
        base: Base | None = None,
        *,
        module_order: ModuleOrder = None,
        first_adapter: ModuleOrder = None,
        seeding: Seeding | None = None,
        stream: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        in_memory: bool = False,
        keep_weights: bool = False,
        complete: bool = False,
        progress: Progress | None = None,
    ) -> Adapter:
        """The open adapter.

        Parameters
        ----------
        base : Base, optional
            Tells the architecture, and gives the weights where factors have to be computed from them; None for the one
            that the adapter names.
        module_order, first_adapter, seeding, stream
            As `Adapter`.
        device, threads
            Where factors are computed, if they have to be, and with how many of torch's threads.
        in_memory : bool
            Read every tensor now, once.
        keep_weights : bool
            Keep weights that are read for factors in memory, in `base`, if they fit.
        complete : bool
            Compute the modules that the file lacks, from the base and the seed.
        progress : Progress, optional

        Raises
        ------
        UndeterminedError
            For what no file tells and nobody said.
        TinyLoraError
            For files that are damaged or don't belong together.
        """
        progress, content = progress or NoProgress(), self.content
        if isinstance(content, Adapter):
            return content.on(
                base, module_order=module_order, first_adapter=first_adapter, seeding=seeding, stream=stream
            )
        notes: list[str] = []
        order, drawn_as = order_in(module_order), stream or DEFAULT_STREAM
        if isinstance(content, Packed):
            from .unpack import restore

            base = base or self._base_at_hand(content)
            header, notes = restore(
                content, base, device=device, threads=threads, keep_weights=keep_weights, progress=progress
            )
        elif isinstance(content, Found):
            from .third_party.adapter import import_third_party

            header, notes = import_third_party(
                content,
                base,
                self.answers or Answers(),
                module_order=order,
                stream=drawn_as,
                device=device,
                threads=threads,
                progress=progress,
            )
        else:
            header = content.in_memory() if in_memory else content
        named = isinstance(content, PeftAdapter) and self.path.is_dir()
        opened = Adapter(
            header,
            base=base,
            module_order=order,
            first_adapter=first_adapter,
            seeding=seeding,
            stream=drawn_as,
            imported=tuple(notes),
            companions=header.directory if named else None,
        )
        if complete:
            from .completion import completed  # which needs torch

            opened = completed(opened, device=device, progress=progress)
        return opened

    def _base_at_hand(self, packed: Packed) -> Base:
        found = self.named_base
        if found is None or found.is_partial:
            raise MismatchError(
                f"is packed, and its base {packed.config.base_model_name_or_path!r} isn't at hand",
                where=self.path,
                hint=name_the_base(self.base_name),
            )
        return found


def load_adapter(
    path: str | Path | Adapter,
    base: str | Path | Base | None = None,
    module_order: ModuleOrder = None,
    *,
    first_adapter: ModuleOrder = None,
    seeding: Seeding | None = None,
    stream: str | None = None,
    kind: str | None = None,
    settings: Mapping[str, str] | None = None,
    projection: str | Path | None = None,
    against: str | Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Adapter:
    """Open an adapter of any form: PEFT's, packed, or one of six other projects.

    Parameters
    ----------
    path : str or Path
        Its directory or file, or a Hub repository, `hf://owner/name`.
    base : str or Path, optional
        The base model's directory; where it is None, the one that the adapter names, if that is at hand. A packed
        adapter, and some of other projects, need its weights.
    module_order : sequence of str, or the path of a file, optional
        The model's modules in the order of `model.named_modules()`, all or at least the targeted ones, where no known
        architecture tells it.
    first_adapter : path, or sequence of str, optional
        Of an adapter that was added to a model which had another: that one's directory, or its targeted modules in the
        same order; or this one's directory, if it was the first.
    seeding : "index" or "salted", optional
        What P, which isn't stored, was drawn from, where PEFT's development version 0.19.2.dev0 wrote the adapter.
    stream : str, optional
        Whose arithmetic a P that isn't stored is drawn with: "torch-cpu-avx2" by default, "torch-cpu-scalar", "torch".
    kind : str, optional
        Insist on a form: "peft", "packed", or another project's name.
    settings, projection, against
        Another project's adapter: what its files don't say; a file with its P, where that is lost; a checkpoint that it
        was merged into, which tells the signs of singular pairs.
    device : str
        Where factors are computed, if they have to be.
    progress : Progress, optional

    Returns
    -------
    Adapter

    Raises
    ------
    FormatError
        For a damaged file.
    UndeterminedError
        For what no file tells.
    TinyLoraError
        For whatever else can't be opened faithfully.
    """
    source = find_source(path, kind=kind, settings=settings or {}, projection=projection, against=against)
    at = None if base is None else open_base(base)
    return source.open(
        at,
        module_order=module_order,
        first_adapter=first_adapter,
        seeding=seeding,
        stream=stream,
        device=device,
        progress=progress,
    )


def find_source(
    path: str | Path | Source | Adapter,
    *,
    kind: str | None = None,
    settings: Mapping[str, str] | None = None,
    projection: str | Path | None = None,
    against: str | Path | None = None,
) -> Source:
    """Tell what stands at a path, from headers alone; arguments as `load_adapter`'s. With `settings`, a third-party
    adapter is taken.

    Raises
    ------
    FormatError
        If nothing is there, or it is damaged.
    UnsupportedError
        For an adapter that isn't TinyLoRA, or of another kind than `kind`.
    """
    if isinstance(path, Source):
        return path
    if isinstance(path, Adapter):
        return Source(path.path, PEFT, path)
    at = locate(path)
    content = content_of(at)
    form = PEFT if isinstance(content, PeftAdapter) else PACKED if isinstance(content, Packed) else content.dialect
    if kind not in (None, form):
        raise UnsupportedError(
            f"is of the kind {form}, not {kind}", where=at, hint=f"Say {argument('kind', form)}, or nothing."
        )
    answers = None
    if settings is None and isinstance(content, Found):
        raise another_project(at, form)
    if settings is not None:
        answers = Answers(settings, *(None if one is None else locate(one) for one in (projection, against)))
        if form in (PEFT, PACKED) and answers.needless:
            what = f"is {form}: {argument(answers.needless)} is for other projects' adapters"
            raise UnsupportedError(what, where=at, hint="Leave it out.")
    return Source(at, form, content, answers)


def find_sources(paths: Sequence[str | Path | Source | Adapter] | str | Path | Source | Adapter) -> list[Source]:
    """The same for one or several."""
    several = [paths] if isinstance(paths, (str, Path, Source, Adapter)) else list(paths)
    if not several:
        raise UndeterminedError("no adapter is named")
    return [find_source(path) for path in several]


def adapter_of(path: Path, file: TensorFile) -> Source | None:
    """The adapter in an open file; None where its tensors are none of one."""
    return Source(path, PEFT, adapter_in(path, file)) if is_adapter(file.tensors) else None


def name_the_base(name: str | None) -> str:
    """What to do where a base isn't at hand."""
    hint = f"Say with {argument('base', ...)} where its directory is"
    if name and name.count("/") == 1:
        hint += f", or download it with {argument('base', HUB_PREFIX + name)}"
    return f"{hint}."
