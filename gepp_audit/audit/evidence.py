"""Whether a quoted value stands in what was sent: pure, `Sent(payload).holds(record_id, field, value)`.

Numbers compare by value (6.250 is 6.25), texts as a part of the sent text, spacing aside. Evidence keeps a finding to
the facts; it is generous about spelling and strict about the place: the right record, the right field.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from gepp_audit.audit.transaction import NUMBER_FIELDS

#: what a missing value may be quoted as
_MISSING: Final = frozenset({"null", "none", ""})
#: characters without width, which Thai texts carry between words and answers drop
_INVISIBLE: Final = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_NUMBER: Final = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?")
#: the longest number that is compared by value
_LONGEST_NUMBER: Final = 64


class Sent:
    """What was sent of one transaction, ready for many questions: a text is normalised once, however often quoted."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._transaction = payload
        self._records: dict[int, Mapping[str, Any]] = {record["record_id"]: record for record in payload["records"]}
        self._normal: dict[str, str] = {}
        self._free_form: dict[str, str] = {}

    def holds(self, record_id: int | None, field: str, value: str) -> bool:
        """Whether `value` stands in this field of this record; `record_id` None: of the transaction itself.

        A missing value is quoted as "null", an empty text as "". "records" of the transaction holds the number of its
        records, and "[]" where there are none. Of free-form JSON, any part of its JSON and of its texts may be quoted.
        """
        if record_id is None:
            return self._transaction_holds(field.strip(), value)
        record = self._records.get(record_id)
        if record is None:
            return False
        name = field.strip()
        # "records[0].unit" beside the right record_id is the same place, spelled at length
        name = name if name in record else name.rpartition(".")[2]
        return name in record and self._stands(record[name], value, name in NUMBER_FIELDS)

    def _transaction_holds(self, field: str, value: str) -> bool:
        name = field if field in self._transaction else field.partition(".")[0]
        if name not in self._transaction:
            return False
        if name == "records":
            return _same_number(str(len(self._records)), value) or (not self._records and value.strip() == "[]")
        sent = self._transaction[name]
        if isinstance(sent, dict | list):
            return self._free_form_holds(name, sent, value)
        return self._stands(sent, value, name in NUMBER_FIELDS)

    def _free_form_holds(self, name: str, sent: Any, value: str) -> bool:
        if not value.strip():
            return False
        if name not in self._free_form:
            as_json = json.dumps(sent, ensure_ascii=False, separators=(",", ":"))
            self._free_form[name] = "\0".join([as_json, *_texts(sent)])
        return self._inside(self._free_form[name], value)

    def _stands(self, sent: Any, value: str, number: bool) -> bool:
        if sent is None:
            return value.strip().casefold() in _MISSING
        if isinstance(sent, bool):
            return value.strip().casefold() == ("true" if sent else "false")
        if number or isinstance(sent, int | float):
            return _same_number(str(sent), value)
        return self._inside(sent, value)

    def _inside(self, sent: str, value: str) -> bool:
        """Whether `value` is a part of `sent`, spacing aside; an empty one only of an empty one."""
        part = _normalised(value)
        if part and value in sent:
            return True
        if sent not in self._normal:
            self._normal[sent] = _normalised(sent)
        whole = self._normal[sent]
        return part in whole if part else not whole


def _same_number(sent: str, value: str) -> bool:
    quoted = value.strip()
    if quoted == sent:
        return True
    if len(quoted) > _LONGEST_NUMBER or not _NUMBER.fullmatch(quoted) or not _NUMBER.fullmatch(sent):
        return False
    return Decimal(quoted.replace(",", "")) == Decimal(sent)


def _normalised(text: str) -> str:
    """`text` with single spaces and without invisible characters.

    NFKC: the Thai vowel SARA AM is written as one character or as two, and models answer with either.
    """
    if text.isascii():
        return " ".join(text.split())
    return " ".join(unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).split())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
