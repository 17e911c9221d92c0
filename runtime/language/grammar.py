"""What the language model may say, as a GBNF grammar of llama.cpp: AUs, expression, why.

The grammar fixes the form alone. Which AUs are named is left to the model, so that a wrong one is
seen and replaced by `check`, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from feallm.runtime.contract.aus import AU_BY_KEY, AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.language.wording import DEGREES, NONE


def answer_grammar(aus_trained: Sequence[str]) -> str:
    """Grammar of a whole answer that names trained AUs only, in FACS order at most once each."""
    keys = [key for key in AU_KEYS if key in aus_trained]
    rules = [r'root ::= "AUs: " aus "\nExpression: " expression "\nWhy: " why']
    # Each AU rule is followed by the later AUs only: order and uniqueness come for free.
    for i, key in enumerate(keys):
        later = keys[i + 1 :]
        more = f' (", " ({" | ".join(_rule(k) for k in later)}))?' if later else ""
        rules.append(f'{_rule(key)} ::= "{key} {AU_BY_KEY[key].name} (" degree ")"{more}')
    choices = " | ".join(_rule(key) for key in keys)
    rules.append(f'aus ::= "{NONE}"{" | " + choices if choices else ""}')
    rules.append("degree ::= " + " | ".join(f'"{word}"' for word in DEGREES))
    rules.append("expression ::= " + " | ".join(f'"{word}"' for word in EXPRESSIONS))
    rules.append("why ::= [A-Z] [A-Za-z0-9 ,;()-]+ sentence-end")
    rules.append('sentence-end ::= "." | ". " why')
    return "\n".join(rules) + "\n"


def _rule(key: str) -> str:
    return key.lower()
