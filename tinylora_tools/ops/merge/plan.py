"""What a merge will write, decided before a byte of it is written.

Every tensor of every adapter finds its place here, or is refused. The plan keeps the base's shards, tensor order,
offsets and header bytes wherever dtypes, shapes and ties stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...adapters.load import Adapter
from ...bases.base import Base
from ...bases.tensor_names import BaseNames, TiedGroup
from ...errors import MismatchError, UnsupportedError
from ...formats.checkpoint import Checkpoint
from ...formats.serving.engines import always_tied
from ...wording import argument
from .gather import gather, same
from .head import with_head
from .layout import index_of, layout
from .quantized import dequantize, refuse_other_dtype
from .words import Change, MergePlan, Outcome, Settled, Source


def plan_merge(
    base: Base,
    adapters: Sequence[Adapter],
    scales: Sequence[float],
    *,
    dtype: str = "auto",
    tied: str = "untie",
    release: str | None = None,
    pad_token_id: Callable[[], int | None] = lambda: None,
) -> MergePlan:
    """Decide every tensor of the merged checkpoint.

    Parameters
    ----------
    base : Base
    adapters : sequence of Adapter
        Known to be sound; their updates are summed.
    scales : sequence of float
        Of each one's update.
    dtype : "auto", "float32", "bfloat16" or "float16"
        Of all floating-point tensors; "auto" keeps each one's own.
    tied : "untie" or "share"
        What becomes of tied embeddings of which one is targeted.
    release : "4" or "5", optional
        The transformers that the adapters were trained under, where that makes a difference.
    pad_token_id : callable
        Gives the tokenizer's, or None: asked for a classifier.

    Raises
    ------
    MismatchError, UndeterminedError, UnsupportedError
        For whatever can't be merged faithfully, by name.
    """
    fitted = with_head(base, adapters, pad_token_id=pad_token_id)
    base, checkpoint = fitted.base, fitted.base.checkpoint
    if dtype != "auto":
        refuse_other_dtype(checkpoint, dtype)
    # Of a base that has no config.json, the adapter may tell the class.
    names = BaseNames(checkpoint, base.architecture or (None if base.config else adapters[0].architecture))
    changes = gather(adapters, scales, names, release)
    settled = _settle(names, changes, share=tied == "share")
    untied = names.untied_config() if settled.tied == "untied" else {}
    config = dequantize(checkpoint, settled, untied, everything=dtype != "auto")
    files = tuple(layout(checkpoint, names, number, settled, dtype) for number in range(len(checkpoint.shards)))
    config = dict(fitted.config) | config
    if dtype != "auto":
        known = [key for key in ("dtype", "torch_dtype") if key in (base.config or {})]
        config |= dict.fromkeys(known or ["torch_dtype"], dtype)
    return MergePlan(
        files=tuple(file for file in files if file.tensors),  # a shard may have held nothing but scales
        index=index_of(checkpoint, files),
        config=config,
        tied=settled.tied,
        warnings=(
            *_unscaled(adapters, scales),
            *checkpoint.notes,
            *names.notes,
            *fitted.notes,
            *(_served_as_tied({**(base.config or {}), **config}) if settled.tied == "untied" else ()),
        ),
        head=fitted.head,
        doubt=fitted.doubt,
    )


def _unscaled(adapters: Sequence[Adapter], scales: Sequence[float]) -> list[str]:
    """What a scale doesn't reach."""
    return [
        f"{argument('scale', scale)} applies to the low-rank updates; {len(adapter.header.replaced)} tensors that "
        f"{adapter.path.name} brings whole (biases, modules_to_save, embeddings) are taken as they are"
        for adapter, scale in zip(adapters, scales, strict=True)
        if adapter.header.replaced and scale != 1.0
    ]


def _served_as_tied(config: Mapping[str, Any]) -> list[str]:
    """A warning of programs that know no head apart from the embedding for a class."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    tied, apart = always_tied(name, str(config.get("model_type") or ""))
    if not tied:
        return []
    know = "know" if len(tied) > 1 else "knows"
    return [
        f"the merged model has a head apart from its embedding, and for {name} {_and(tied)} {know} none: they serve it "
        f"as tied, which is another model, or don't load it. Serve it with {_and(['transformers', *apart])}; for the "
        "others train adapters without embed_tokens and lm_head"
    ]


def _and(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _settle(names: BaseNames, changes: Mapping[str, Change], *, share: bool) -> Settled:
    base, settled = names.base, Settled()
    for stored, group in {change.group.stored: change.group for change in changes.values()}.items():
        of_member = _members(Source(base.source(stored), base.info(stored)), group, changes)
        first = next(iter(of_member.values()))
        if all(outcome == first for outcome in of_member.values()):
            settled.outcomes |= {key: first for key in group.members.values() if key in base}
        elif share:
            settled.tied = "shared"
            joined = _shared_outcome(base, group, list(of_member.values()))
            settled.outcomes |= {key: joined for key in group.members.values() if key in base}
        elif group.optional:
            settled.tied = "untied"
            settled.outcomes |= {group.members[member]: outcome for member, outcome in of_member.items()}
            settled.added |= {key: stored for key in group.members.values() if key not in base}
        else:
            changed = [member for member, outcome in of_member.items() if outcome.updates]
            raise UnsupportedError(
                f"{' and '.join(changed) or stored}: the adapter changes one of {', '.join(group.members)}, "
                "which this architecture can't hold apart",
                where=base.path,
                hint=f"With {argument('tied', 'share')} all of them get the update, as in PEFT's own merge; "
                "the adapter's forward pass doesn't compute that.",
            )
    if settled.tied == "untied":
        _write_out_ties(names, settled)
    return settled


def _write_out_ties(names: BaseNames, settled: Settled) -> None:
    """Give every other tied parameter a tensor too: without tie_word_embeddings, transformers 5 ties none of them, and
    initialises anew what it doesn't find (BERT's `decoder.bias`)."""
    base = names.base
    for group in names.tied_groups():
        kept = Outcome(Source(base.source(group.stored), base.info(group.stored)))
        for key in group.members.values():
            if key not in base and key not in settled.outcomes:
                settled.outcomes[key] = settled.outcomes.get(group.stored, kept)
                settled.added[key] = group.stored


def _shared_outcome(base: Checkpoint, group: TiedGroup, outcomes: list[Outcome]) -> Outcome:
    if any(outcome.source != outcomes[0].source for outcome in outcomes):
        raise MismatchError(
            f"the adapter brings values of its own for some of {', '.join(group.members)}, which the base ties",
            where=base.path,
            hint=f"Merge with {argument('tied', 'untie')}.",
        )
    return Outcome(outcomes[0].source, tuple(update for outcome in outcomes for update in outcome.updates))


def _members(stored: Source, group: TiedGroup, changes: Mapping[str, Change]) -> dict[str, Outcome]:
    """What the model's forward pass uses for each parameter of a group."""
    wanted = {member: changes[member] for member in group.members if member in changes}
    shared = [c.replacement for c in wanted.values() if c.replacement is not None and c.in_place]
    if any(not same(source, shared[0]) for source in shared[1:]):
        raise MismatchError(
            f"the adapter holds different values for {' and '.join(wanted)}, which are one tensor in the base",
            where=shared[0].file.path,
            hint="Was it trained on this base? One whose embeddings aren't tied would hold them apart.",
        )
    common = shared[0] if shared else stored
    outcomes = {}
    for member in group.members:
        change = wanted.get(member)
        own = change.replacement if change is not None and not change.in_place else None
        outcomes[member] = Outcome(own or common, change.updates if change else ())
    return outcomes
