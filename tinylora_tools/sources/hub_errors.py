"""What can keep a repository from being had, told apart: each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import TinyLoraError
from .repository import Repository


@contextmanager
def told(repository: Repository, source: str, *, writing: bool = False) -> Iterator[None]:
    """Raise TinyLoraError for whatever huggingface_hub, or a network below it, raises meanwhile."""
    try:
        yield
    except (MemoryError, TinyLoraError):
        raise
    except Exception as error:
        known = (_said_of_writing(error) if writing else None) or _said(error, repository)
        what, hint = known or _otherwise(error, writing=writing)
        raise TinyLoraError(what, where=source, hint=hint) from None


def not_whole(repository: Repository, source: str) -> TinyLoraError:
    """What to say of a repository of which the cache has a part, where no more can be fetched."""
    from huggingface_hub import constants

    part = "the Hub's cache has a part of it, without its weights"
    if constants.HF_HUB_OFFLINE:
        what, hint = f"{part}, and HF_HUB_OFFLINE is set", _offline_hint(repository)
    else:
        what, hint = f"the Hub can't be reached, and {part}", _network_hint()
    return TinyLoraError(what, where=source, hint=hint)


def unreachable(error: BaseException) -> bool:
    """Whether the Hub can't be asked: offline is set, or there is no network."""
    from huggingface_hub import constants, errors

    several = list(_causes(error))
    offline = constants.HF_HUB_OFFLINE or any(isinstance(one, errors.OfflineModeIsEnabled) for one in several)
    return offline or (_is_network(several) and not any(_status(one) for one in several))


def _said_of_writing(error: Exception) -> tuple[str, str] | None:
    """What happened to what was to be written, where that isn't what happens to readers too."""
    several = list(_causes(error))
    status = next((code for one in several if (code := _status(one)) is not None), None)
    if status in (401, 403):
        return f"the Hub doesn't take it from this account ({status})", "Log in with a token that may write there."
    if status == 404:
        return (
            "the Hub has no such repository, or no such branch",
            "Check the name; a pull request needs one that is there.",
        )
    if status == 429:
        return "the Hub takes no more requests from here for now (429)", "Push again in a few minutes."
    if status is None and _is_network(several):
        return "the connection to the Hub broke, or there is none", "Try again: what was sent isn't sent twice."
    return None


def _said(error: Exception, repository: Repository) -> tuple[str, str] | None:
    """What happened, and what to do; None for what nobody knows."""
    from huggingface_hub import constants, errors, get_token

    several = list(_causes(error))

    def is_a(*names: str) -> bool:
        kinds = tuple(getattr(errors, name) for name in names if hasattr(errors, name))
        return any(isinstance(one, kinds) for one in several)

    login = "`hf auth login`, or HF_TOKEN, opens private repositories."
    if is_a("GatedRepoError"):
        who = "the account that is logged in has no access to it" if get_token() else "nobody is logged in"
        page = f"{constants.ENDPOINT}/{repository.id}"
        return f"it is gated, and {who}", f"Ask for access on {page}, and log in with `hf auth login` or HF_TOKEN."
    if is_a("RepositoryNotFoundError"):
        return "the Hub has no such repository, or it is private", f"Check the name. {login}"
    if is_a("RevisionNotFoundError"):
        which = repository.revision or "main"
        return f"the repository has no revision {which!r}", "Name one of its branches, tags or commits behind the @."
    if is_a("OfflineModeIsEnabled") or constants.HF_HUB_OFFLINE:
        have = "isn't whole in" if is_a("IncompleteSnapshotError") else "isn't in"
        return f"it {have} the Hub's cache, and HF_HUB_OFFLINE is set", _offline_hint(repository)
    status = next((code for one in several if (code := _status(one)) is not None), None)
    if status == 429:
        wait = next((after for one in several if (after := _header(one, "Retry-After"))), None)
        when = f"in {wait} seconds" if wait and wait.isdigit() else "in a few minutes"
        return "the Hub takes no more requests from here for now (429)", f"Try again {when}. {login}"
    if status is not None and status >= 500:
        return f"the Hub fails ({status})", "Try again later; https://status.huggingface.co says what is known."
    if status in (401, 403):
        return f"the Hub refuses it ({status})", f"Is the token still good? {login}"
    if status is None and _is_network(several):
        have = "the cache has only a part of it" if is_a("IncompleteSnapshotError") else "it isn't in the cache"
        return (
            f"the Hub can't be reached, and {have}",
            _network_hint(),
        )
    return None


def _otherwise(error: Exception, *, writing: bool) -> tuple[str, str]:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if writing:
        return f"can't be pushed: {reason}", "Try again; HF_DEBUG=1 shows what is sent and what comes back."
    return (
        f"can't be had from the Hub: {reason}",
        "Check the name and the network; HF_TOKEN opens private repositories. Or name a local directory.",
    )


def _network_hint() -> str:
    from huggingface_hub import constants

    return f"Check the network, and that {constants.ENDPOINT} is the Hub (HF_ENDPOINT). Or name a local directory."


def _offline_hint(repository: Repository) -> str:
    which = f" of its revision {repository.revision!r}" if repository.revision else ""
    return f"Fetch it where there is a network, by `hf download {repository.id}`{which}, or unset HF_HUB_OFFLINE."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) and code >= 400 else None


def _header(error: BaseException, name: str) -> str | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return str(headers[name]) if headers is not None and name in headers else None


def _is_network(several: list[BaseException]) -> bool:
    """Whether the connection failed: huggingface_hub has had requests, httpx and its successor below it."""
    names = {"ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout", "TimeoutException"}
    kinds = [kind.__name__ for one in several for kind in type(one).__mro__]
    return bool(names & {*kinds}) or any(isinstance(one, (ConnectionError, TimeoutError)) for one in several)
