"""Methods that are replaced for a while."""

from __future__ import annotations

from typing import Any

from tinylora_tools.nn.patches import Patches, Replacement


class Base:
    def inherited(self) -> str:
        return "inherited"


class Owner(Base):
    def own(self) -> str:
        return "own"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__


def louder(original: Any) -> Any:
    if isinstance(original, classmethod):
        return classmethod(lambda cls: original.__func__(cls).upper())
    return lambda self: original(self).upper()


def replacements() -> list[Replacement]:
    return [(Owner, name, louder) for name in ("own", "inherited", "of_class")]


def said() -> list[str]:
    return [Owner().own(), Owner().inherited(), Owner.of_class()]


def test_methods_are_replaced_from_the_first_to_the_last() -> None:
    before, patches = dict(vars(Owner)), Patches(replacements)
    for _ in range(2):
        patches.enter()
        patches.enter()
        assert said() == ["OWN", "INHERITED", "OWNER"]
        assert Base().inherited() == "inherited"
        patches.leave()
        assert said() == ["OWN", "INHERITED", "OWNER"]
        patches.leave()
        assert dict(vars(Owner)) == before
    assert said() == ["own", "inherited", "Owner"]


def test_what_someone_else_replaced_meanwhile_stays() -> None:
    class Other(Owner):
        def own(self) -> str:
            return "other"

    def theirs(self: Other) -> str:
        return "theirs"

    patches = Patches(lambda: [(Other, "own", louder), (Other, "inherited", louder)])
    patches.enter()
    Other.own = theirs
    patches.leave()
    assert (Other().own(), Other().inherited()) == ("theirs", "inherited")
