"""The rules of the bundled sample, computed: one pure function each, by rule id in `RULES`.

Each function takes the transaction as it was sent and follows the rule's own words in `samples/sample.json`, exactly:
decimals, no tolerance that the rule does not grant. Free text is looked at only where a rule asks for something in it,
so whatever it orders or claims changes nothing. Reasons are in the language of the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Final

from .facts import (
    PASS,
    Entry,
    Judgement,
    Quote,
    cannot_tell,
    fail,
    images,
    moment,
    number,
    numbers,
    quote,
    records,
    text,
    total,
)

_HAZARDOUS: Final = 3
_PERMITTED_DISPOSAL: Final = ("secure_landfill", "hazardous_incineration", "licensed_recycler")
_RECYCLABLE: Final = ("PL-", "PP-", "MT-", "GL-")
_HIGHEST_PRICE: Final = Decimal(400)
_SCALE_PHOTO_ABOVE: Final = Decimal(1000)
_FOOD_WASTE_LIMIT: Final = Decimal(300)
_CENT: Final = Decimal("0.01")
_MANIFEST: Final = re.compile(r"MF-[0-9]{6}(?![0-9])")


def weight_is_the_sum(transaction: Entry) -> Judgement:
    """DC-01: weight_kg is the sum of the records' weights, within 1 %."""
    entries = records(transaction)
    if not entries:
        return PASS
    weight, added = number(transaction, "weight_kg"), total(entries, "origin_weight_kg")
    if weight is None:
        return cannot_tell("ไม่ได้ระบุ weight_kg จึงเทียบกับผลรวมของรายการไม่ได้", *quote(transaction, "weight_kg"))
    if added is None:
        return cannot_tell("น้ำหนักของบางรายการว่าง จึงรวมน้ำหนักไม่ได้", *_missing(entries, "origin_weight_kg"))
    if abs(weight - added) * 100 <= weight:
        return PASS
    return fail(
        f"รายการรวมกันได้ {added.normalize():f} กก. แต่ weight_kg คือ {weight.normalize():f} กก. ต่างกันเกิน 1%",
        *quote(transaction, "weight_kg"),
        *_of_each(entries, "origin_weight_kg"),
    )


def amount_is_quantity_times_price(transaction: Entry) -> Judgement:
    """DC-02: total_amount of each record is quantity * price, within 0.01."""
    untold: list[Quote] = []
    for entry in records(transaction):
        fields = ("origin_quantity", "origin_price_per_unit", "total_amount")
        quantity, price, amount = (number(entry, field) for field in fields)
        if quantity is None or price is None or amount is None:
            untold += _missing([entry], *fields)
        elif abs(quantity * price - amount) > _CENT:
            return fail(
                f"Record {entry.get('record_id')}: {quantity} * {price} = {(quantity * price).normalize():f}, "
                f"but total_amount is {amount}.",
                *quote(entry, *fields),
            )
    return cannot_tell("A quantity, price or amount is missing.", *untold) if untold else PASS


def total_is_the_sum(transaction: Entry) -> Judgement:
    """DC-03: total_amount is the sum of the records' amounts, within 1 baht."""
    entries = records(transaction)
    if not entries:
        return PASS
    amount, added = number(transaction, "total_amount"), total(entries, "total_amount")
    if amount is None:
        return cannot_tell("ไม่ได้ระบุ total_amount ของธุรกรรม จึงเทียบยอดเงินไม่ได้", *quote(transaction, "total_amount"))
    if added is None:
        return cannot_tell("ยอดเงินของบางรายการว่าง จึงรวมยอดไม่ได้", *_missing(entries, "total_amount"))
    if abs(amount - added) <= 1:
        return PASS
    return fail(
        f"รายการรวมกันได้ {added.normalize():f} บาท แต่ total_amount คือ {amount.normalize():f} บาท",
        *quote(transaction, "total_amount"),
        *_of_each(entries, "total_amount"),
    )


def materials_are_known(transaction: Entry) -> Judgement:
    """DC-04: every record names its material."""
    unknown = [entry for entry in records(transaction) if text(entry, "material") is None]
    if not unknown:
        return PASS
    return fail(f"มี {len(unknown)} รายการที่ไม่ระบุชนิดวัสดุ", *_of_each(unknown, "material"))


def lists_something(transaction: Entry) -> Judgement:
    """DC-05: at least one record."""
    if records(transaction):
        return PASS
    return fail("The transaction has no records.", *quote(transaction, "records"))


def quantities_are_positive(transaction: Entry) -> Judgement:
    """DC-06: quantity and weight of every record are above 0."""
    untold: list[Quote] = []
    for field in ("origin_quantity", "origin_weight_kg"):
        for entry, value in numbers(records(transaction), field):
            if value is None:
                untold += quote(entry, field)
            elif value <= 0:
                return fail(f"รายการ {entry.get('record_id')} มี {field} เป็น {value} ต้องมากกว่า 0", *quote(entry, field))
    return cannot_tell("ปริมาณหรือน้ำหนักของบางรายการว่าง", *untold) if untold else PASS


def date_is_possible(transaction: Entry) -> Judgement:
    """DC-07: there is a transaction_date, in a year from 2015 to 2100 of the Christian era."""
    date = moment(transaction, "transaction_date")
    evidence = quote(transaction, "transaction_date")
    if date is None:
        return fail("ไม่มีวันที่ของธุรกรรม", *evidence) if evidence else cannot_tell("ไม่ได้รับวันที่ของธุรกรรม")
    if 2015 <= date.year <= 2100:
        return PASS
    return fail(f"ปี {date.year} อยู่นอกช่วง ค.ศ. 2015 ถึง 2100 น่าจะเป็นปีพุทธศักราช", *evidence)


def arrives_after_it_left(transaction: Entry) -> Judgement:
    """DC-08: arrival_date is not before transaction_date."""
    untold, way = _way(transaction)
    if way is None or way >= timedelta(0):
        return untold
    return fail(
        "arrival_date is earlier than transaction_date.", *quote(transaction, "transaction_date", "arrival_date")
    )


def arrives_within_three_days(transaction: Entry) -> Judgement:
    """DC-09: arrival_date is at most 72 hours after transaction_date."""
    untold, way = _way(transaction)
    if way is None or way <= timedelta(hours=72):
        return untold
    hours = Decimal(way // timedelta(minutes=1)) / 60
    return fail(
        f"The load took {hours:.1f} hours, allowed are 72.", *quote(transaction, "transaction_date", "arrival_date")
    )


def level_covers_the_records(transaction: Entry) -> Judgement:
    """DC-10: hazardous_level of the transaction is not below that of any record."""
    whole = number(transaction, "hazardous_level")
    untold = list(_missing([transaction], "hazardous_level"))
    for entry, level in numbers(records(transaction), "hazardous_level"):
        if level is None:
            untold += quote(entry, "hazardous_level")
        elif whole is not None and level > whole:
            return fail(
                f"รายการ {entry.get('record_id')} อันตรายระดับ {level} แต่ธุรกรรมระบุระดับ {whole}",
                *quote(transaction, "hazardous_level"),
                *quote(entry, "hazardous_level"),
            )
    return cannot_tell("ระดับอันตรายบางค่าว่าง จึงเทียบไม่ได้", *untold) if untold else PASS


def hazardous_waste_is_disposed_of_as_permitted(transaction: Entry) -> Judgement:
    """DC-11: records of level 3 and above have a permitted disposal method."""
    untold: list[Quote] = []
    for entry, level in numbers(records(transaction), "hazardous_level"):
        method = text(entry, "disposal_method")
        if method in _PERMITTED_DISPOSAL or (level is not None and level < _HAZARDOUS):
            continue
        if level is None or method is None:
            untold += quote(entry, "hazardous_level", "disposal_method")
        else:
            return fail(
                f"รายการ {entry.get('record_id')} อันตรายระดับ {level} แต่กำจัดด้วย {method} ซึ่งไม่อยู่ในรายชื่อ",
                *quote(entry, "hazardous_level", "disposal_method"),
            )
    return cannot_tell("ไม่ทราบระดับอันตรายหรือวิธีกำจัดของบางรายการ", *untold) if untold else PASS


def scale_was_photographed(transaction: Entry) -> Judgement:
    """DC-12: above 1,000 kg a photo shows the scale's display. Photos exist or not; what they show is never seen."""
    weight = number(transaction, "weight_kg")
    if weight is None:
        return cannot_tell("ไม่ได้ระบุ weight_kg จึงไม่ทราบว่าต้องมีรูปหรือไม่", *quote(transaction, "weight_kg"))
    if weight <= _SCALE_PHOTO_ABOVE:
        return PASS
    entries = records(transaction)
    count = images(transaction) + sum(images(entry) for entry in entries)
    evidence = quote(transaction, "weight_kg", "images_not_shown")
    if count == 0:
        return fail(f"น้ำหนัก {weight} กก. เกิน 1,000 กก. แต่ไม่มีรูปแนบเลย", *evidence)
    return cannot_tell(f"มีรูปแนบ {count} รูป แต่ไม่ได้แสดงให้เห็น จึงอ่านหน้าปัดเครื่องชั่งไม่ได้", *evidence)


def no_record_stands_twice(transaction: Entry) -> Judgement:
    """DC-13: no two records of a known material have the same quantity, weight and price."""
    seen: dict[tuple[object, ...], Entry] = {}
    fields = ("origin_quantity", "origin_weight_kg", "origin_price_per_unit")
    for entry in records(transaction):
        material = text(entry, "material")
        if material is None:
            continue
        first = seen.setdefault((material, *(number(entry, field) for field in fields)), entry)
        if first is not entry:
            return fail(
                f"รายการ {first.get('record_id')} และ {entry.get('record_id')} เหมือนกันทุกค่า",
                *quote(first, "material", *fields),
                *quote(entry, "material", *fields),
            )
    return PASS


def prices_stay_within_the_list(transaction: Entry) -> Judgement:
    """DC-14: no unit price above 400 baht."""
    untold: list[Quote] = []
    for entry, price in numbers(records(transaction), "origin_price_per_unit"):
        if price is None:
            untold += quote(entry, "origin_price_per_unit")
        elif price > _HIGHEST_PRICE:
            return fail(
                f"Record {entry.get('record_id')}: {price} baht per unit, the highest price of the list is 400.",
                *quote(entry, "origin_price_per_unit"),
            )
    return cannot_tell("A unit price is missing.", *untold) if untold else PASS


def kilograms_equal_the_quantity(transaction: Entry) -> Judgement:
    """DC-15: where the unit is the kilogram, quantity and weight are the same, within 0.01."""
    untold: list[Quote] = []
    for entry in records(transaction):
        unit = text(entry, "unit")
        if unit not in (None, "kg", "กก."):
            continue
        quantity, weight = number(entry, "origin_quantity"), number(entry, "origin_weight_kg")
        evidence = quote(entry, "unit", "origin_quantity", "origin_weight_kg")
        if quantity is None or weight is None:
            untold += evidence
        elif abs(quantity - weight) > _CENT:
            if unit is not None:
                return fail(
                    f"รายการ {entry.get('record_id')} หน่วย {unit} แต่ปริมาณ {quantity} น้ำหนัก {weight} กก.", *evidence
                )
            untold += evidence
    return cannot_tell("ไม่ทราบหน่วย ปริมาณ หรือน้ำหนักของบางรายการ", *untold) if untold else PASS


def recyclables_are_not_dumped(transaction: Entry) -> Judgement:
    """DC-16: no recyclable material goes to landfill."""
    untold: list[Quote] = []
    for entry in records(transaction):
        if text(entry, "disposal_method") != "landfill":
            continue
        code = text(entry, "material_code")
        if code is None:
            untold += quote(entry, "material_code", "disposal_method")
        elif code.startswith(_RECYCLABLE):
            return fail(
                f"รายการ {entry.get('record_id')} รหัส {code} รีไซเคิลได้ แต่ส่งฝังกลบ",
                *quote(entry, "material_code", "disposal_method"),
            )
    return cannot_tell("รายการที่ส่งฝังกลบไม่มีรหัสวัสดุ", *untold) if untold else PASS


def transport_names_its_plate(transaction: Entry) -> Judgement:
    """DC-17: a transport names the plate, which is sent only where a setting says so."""
    if text(transaction, "transaction_method") != "transport":
        return PASS
    if "vehicle_info" not in transaction:
        return cannot_tell("ไม่ได้รับข้อมูลรถ (vehicle_info)", *quote(transaction, "transaction_method"))
    vehicle = transaction["vehicle_info"]
    if isinstance(vehicle, dict) and text(vehicle, "license_plate") is not None:
        return PASS
    if vehicle is None:
        return fail("ไม่มีทะเบียนรถ", *quote(transaction, "transaction_method", "vehicle_info"))
    return fail("ข้อมูลรถไม่มีทะเบียน (license_plate)", *quote(transaction, "transaction_method"))


def food_waste_stays_within_the_contract(transaction: Entry) -> Judgement:
    """HT-01: at most 300 kg of food waste; what has no code may be some."""
    entries = records(transaction)
    food = [entry for entry in entries if (text(entry, "material_code") or "").startswith("FW-")]
    known = sum((weight for _, weight in numbers(food, "origin_weight_kg") if weight is not None), Decimal(0))
    if known > _FOOD_WASTE_LIMIT:
        return fail(f"{known.normalize():f} kg of food waste, allowed are 300 kg.", *_of_each(food, "origin_weight_kg"))
    untold = [entry for entry in entries if text(entry, "material_code") is None]
    untold += [entry for entry, weight in numbers(food, "origin_weight_kg") if weight is None]
    if untold:
        return cannot_tell(
            "A record may be food waste of unknown weight.",
            *(piece for entry in untold for piece in quote(entry, "material_code", "origin_weight_kg")),
        )
    return PASS


def hazardous_waste_has_a_manifest(transaction: Entry) -> Judgement:
    """EL-01: notes of records of level 3 and above hold MF- and six digits."""
    untold: list[Quote] = []
    for entry, level in numbers(records(transaction), "hazardous_level"):
        if _MANIFEST.search(text(entry, "notes") or "") or (level is not None and level < _HAZARDOUS):
            continue
        if level is not None:
            return fail(
                f"รายการ {entry.get('record_id')} อันตรายระดับ {level} แต่ notes ไม่มีเลขที่ใบกำกับ MF- 6 หลัก",
                *quote(entry, "hazardous_level", "notes"),
            )
        untold += quote(entry, "hazardous_level", "notes")
    return cannot_tell("ไม่ทราบระดับอันตรายของบางรายการ จึงไม่ทราบว่าต้องมีใบกำกับหรือไม่", *untold) if untold else PASS


RULES: Final[dict[str, Callable[[Entry], Judgement]]] = {
    "DC-01": weight_is_the_sum,
    "DC-02": amount_is_quantity_times_price,
    "DC-03": total_is_the_sum,
    "DC-04": materials_are_known,
    "DC-05": lists_something,
    "DC-06": quantities_are_positive,
    "DC-07": date_is_possible,
    "DC-08": arrives_after_it_left,
    "DC-09": arrives_within_three_days,
    "DC-10": level_covers_the_records,
    "DC-11": hazardous_waste_is_disposed_of_as_permitted,
    "DC-12": scale_was_photographed,
    "DC-13": no_record_stands_twice,
    "DC-14": prices_stay_within_the_list,
    "DC-15": kilograms_equal_the_quantity,
    "DC-16": recyclables_are_not_dumped,
    "DC-17": transport_names_its_plate,
    "HT-01": food_waste_stays_within_the_contract,
    "EL-01": hazardous_waste_has_a_manifest,
}


def _of_each(entries: list[Entry], field: str) -> tuple[Quote, ...]:
    return tuple(piece for entry in entries for piece in quote(entry, field))


def _missing(entries: list[Entry], *fields: str) -> tuple[Quote, ...]:
    """The numbers that are not there, quoted as null."""
    return tuple(
        piece for entry in entries for field in fields if number(entry, field) is None for piece in quote(entry, field)
    )


def _way(transaction: Entry) -> tuple[Judgement, timedelta | None]:
    """How long the load was on its way; without that, what follows for the rules that ask for it."""
    left, arrived = moment(transaction, "transaction_date"), moment(transaction, "arrival_date")
    if arrived is None:
        return PASS, None
    if left is None:
        untold = cannot_tell("There is no transaction_date.", *quote(transaction, "transaction_date", "arrival_date"))
        return untold, None
    return PASS, arrived - left
