"""A plan: what is made of a checkpoint, for which machine. Data, and nothing else.

`profiles` holds the five that are known by name; `--plan FILE` reads another, JSON of the same
fields. Artifacts go by their file names, PART.PRECISION.FORMAT, best first; `matrix` makes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from feallm.export.matrix import EXPORTERS
from feallm.runtime.contract.errors import InputError, UsageError
from feallm.runtime.contract.manifest import Profile, Provider

Names = tuple[str, ...]


class Plan(Profile):
    """A profile, and the files that it gets."""

    vision: Annotated[Names, Field(min_length=1)]
    language: Names = ()
    only_on: dict[str, tuple[Provider, ...]] = {}
    """Files that are worth taking only where one of these providers runs, by name."""

    @model_validator(mode="after")
    def _known(self) -> Plan:
        for part, names in (("vision", self.vision), ("language", self.language)):
            for name in names:
                if name not in EXPORTERS:
                    raise ValueError(
                        f"no exporter makes {name!r}; there are {', '.join(EXPORTERS)}"
                    )
                if part not in EXPORTERS[name].parts:
                    raise ValueError(f"{name} holds no {part}")
        if unknown := set(self.only_on) - {*self.vision, *self.language}:
            raise ValueError(f"only_on names what is not in the plan: {', '.join(unknown)}")
        return self

    @property
    def files(self) -> Names:
        """Every file of the plan, once."""
        return tuple(dict.fromkeys([*self.vision, *self.language]))

    def profile(self) -> Profile:
        """What the manifest says of the machine."""
        return Profile(**{name: getattr(self, name) for name in Profile.model_fields})

    def without_words(self) -> Plan:
        """The plan of a checkpoint that has no language model: files that hold both parts give way
        to those of the eyes alone."""

        def alone(name: str) -> str:
            if not name.startswith("feallm."):
                return name
            return "vision.fp32.pte" if ".fp32." in name else "vision.int8.pte"

        vision = tuple(dict.fromkeys(alone(name) for name in self.vision))
        only_on = {name: value for name, value in self.only_on.items() if name in vision}
        return self.model_copy(update={"vision": vision, "language": (), "only_on": only_on})


def read(path: Path) -> Plan:
    """The plan in a JSON file; `InputError` says what is wrong with it."""
    try:
        return Plan.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "plan"
        raise InputError(f"{path}: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON: {error}") from error


def named(name: str) -> Plan:
    """The plan of a known profile; `UsageError` where there is none of that name."""
    from feallm.export.profiles import PROFILES

    for plan in PROFILES:
        if plan.name == name:
            return plan
    known = ", ".join(plan.name for plan in PROFILES)
    raise UsageError(f"no profile named {name!r}", hint=f"there are {known}; or --plan FILE")
