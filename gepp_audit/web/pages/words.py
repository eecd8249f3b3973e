"""The words of the pages in English and Thai: a plain table, so that a translator can read it from top to bottom.

What people wrote on the platform (rules, reasons, notes) is shown as it is, whatever the language of the pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENGLISH: Final = "en"
THAI: Final = "th"
#: how each language calls itself, in the order in which the switch offers them
LANGUAGES: Final[Mapping[str, str]] = {ENGLISH: "English", THAI: "ไทย"}

#: by name: English, Thai
TABLE: Final[Mapping[str, tuple[str, str]]] = {
    # -- frame
    "product": ("AI Audit", "AI Audit"),
    "history": ("Audit History", "ประวัติการตรวจสอบ"),
    "skip": ("Skip to the content", "ข้ามไปยังเนื้อหา"),
    "language": ("Language", "ภาษา"),
    "sign_out": ("Sign out", "ออกจากระบบ"),
    "organization": ("Organization {id}", "องค์กร {id}"),
    "times_are_utc": ("Times are UTC.", "เวลาทั้งหมดเป็น UTC"),
    "dev_mode": (
        "Development mode: no sign-in, this computer alone.",
        "โหมดพัฒนา: ไม่ต้องเข้าสู่ระบบ ใช้ได้เฉพาะเครื่องนี้",
    ),
    "reload": ("Reload to see progress", "โหลดหน้าใหม่เพื่อดูความคืบหน้า"),
    "loading": ("Loading …", "กำลังโหลด …"),
    "offline": (
        "The server does not answer; trying again.",
        "เซิร์ฟเวอร์ไม่ตอบสนอง กำลังลองใหม่",
    ),
    # -- signing in
    "sign_in": ("Sign in", "เข้าสู่ระบบ"),
    "sign_in_lead": (
        "See what the AI audit said of your organization’s transactions, and why.",
        "ดูผลการตรวจสอบธุรกรรมขององค์กรคุณด้วย AI พร้อมเหตุผล",
    ),
    "token": ("Access token of the GEPP platform", "โทเค็นการเข้าถึงของแพลตฟอร์ม GEPP"),
    "token_help": (
        "The token that the platform gave you when you signed in there. It is kept in this browser until it expires.",
        "โทเค็นที่แพลตฟอร์มออกให้เมื่อคุณเข้าสู่ระบบ จะเก็บไว้ในเบราว์เซอร์นี้จนกว่าจะหมดอายุ",
    ),
    "token_missing": ("Paste the token first.", "โปรดวางโทเค็นก่อน"),
    "token_refused": (
        "This token is not valid here, or it has expired. Sign in to the platform again and copy the new one.",
        "โทเค็นนี้ใช้ไม่ได้หรือหมดอายุแล้ว โปรดเข้าสู่ระบบแพลตฟอร์มอีกครั้งแล้วคัดลอกโทเค็นใหม่",
    ),
    "opening": ("Opening …", "กำลังเปิด …"),
    "go_on": ("Continue", "ดำเนินการต่อ"),
    # -- the list
    "start": ("Start AI Audit", "เริ่มตรวจสอบด้วย AI"),
    "starting": ("Starting …", "กำลังเริ่ม …"),
    "batch": ("Batch", "ชุด"),
    "batch_number": ("Batch {id}", "ชุดที่ {id}"),
    "status": ("Status", "สถานะ"),
    "progress": ("Progress", "ความคืบหน้า"),
    "progress_of": ("Progress of batch {id}", "ความคืบหน้าของชุดที่ {id}"),
    "started": ("Started", "เริ่ม"),
    "ended": ("Ended", "สิ้นสุด"),
    "duration": ("Duration", "ระยะเวลา"),
    "tokens": ("Tokens", "โทเค็น"),
    "cost": ("Cost", "ค่าใช้จ่าย"),
    "actions": ("Actions", "การดำเนินการ"),
    "done_of": ("{done} of {total}", "{done} จาก {total}"),
    "all_statuses": ("All but cancelled", "ทั้งหมด ยกเว้นที่ถูกยกเลิก"),
    "from": ("From", "ตั้งแต่"),
    "to": ("To", "ถึง"),
    "filter": ("Filter", "กรอง"),
    "clear": ("Clear", "ล้าง"),
    "newest": ("Newest", "ล่าสุด"),
    "older": ("Older", "เก่ากว่า"),
    "pages": ("Pages", "หน้า"),
    "date_wrong": (
        "“{text}” is no date; it was left out. Write it as 2026-01-31.",
        "“{text}” ไม่ใช่วันที่ จึงไม่ได้ใช้ โปรดเขียนเช่น 2026-01-31",
    ),
    "no_batch_title": ("Nothing has been audited yet", "ยังไม่มีการตรวจสอบ"),
    "no_batch": (
        "Start an audit: every transaction that waits for one is checked against your organization’s rules.",
        "เริ่มการตรวจสอบ: ธุรกรรมที่รออยู่ทุกรายการจะถูกตรวจตามกฎขององค์กรคุณ",
    ),
    "no_match_title": ("No batch matches", "ไม่พบชุดที่ตรงเงื่อนไข"),
    "no_match": ("Widen the dates or choose another status.", "ลองขยายช่วงวันที่หรือเลือกสถานะอื่น"),
    # -- statuses of a batch
    "status_pending": ("Waiting", "รอดำเนินการ"),
    "status_in_progress": ("In progress", "กำลังตรวจสอบ"),
    "status_completed": ("Completed", "เสร็จสิ้น"),
    "status_failed": ("Failed", "ล้มเหลว"),
    "status_cancelled": ("Cancelled", "ยกเลิกแล้ว"),
    "status_undone": ("Undone", "ย้อนกลับแล้ว"),
    "status_deleted": ("Deleted", "ลบแล้ว"),
    # -- verdicts
    "verdict": ("Verdict", "ผลการตรวจ"),
    "approved": ("Approved", "อนุมัติ"),
    "rejected": ("Rejected", "ปฏิเสธ"),
    "no_action": ("Undecided", "ตัดสินไม่ได้"),
    "failed": ("Failed", "ล้มเหลว"),
    "skipped": ("Skipped", "ข้าม"),
    "waiting": ("Waiting", "รอ"),
    "calling": ("Being audited", "กำลังตรวจ"),
    "unknown_verdict": ("Not told", "ไม่มีข้อมูล"),
    # -- one batch
    "rule": ("Rule", "กฎ"),
    "any_verdict": ("Any verdict", "ทุกผล"),
    "any_rule": ("Any rule", "ทุกกฎ"),
    "further": ("Next", "ถัดไป"),
    "first": ("First", "หน้าแรก"),
    "model": ("Model", "โมเดล"),
    "transaction": ("Transaction", "ธุรกรรม"),
    "transaction_number": ("Transaction {id}", "ธุรกรรม {id}"),
    "retry_failed": ("Retry failed", "ตรวจที่ล้มเหลวอีกครั้ง"),
    "retrying": ("Queueing …", "กำลังเข้าคิว …"),
    "cancel": ("Cancel", "ยกเลิก"),
    "cancelling": ("Cancelling …", "กำลังยกเลิก …"),
    "no_line_title": ("No transaction here", "ไม่มีธุรกรรม"),
    "no_line": ("None of this batch is asked for by these filters.", "ไม่มีธุรกรรมในชุดนี้ที่ตรงกับตัวกรอง"),
    "asked_again": ("Asked again from", "จะตรวจอีกครั้งตั้งแต่"),
    "no_reason": ("No reason is kept of it.", "ไม่ได้เก็บเหตุผลไว้"),
    # -- one transaction
    "rules_checked": ("Rules", "กฎที่ตรวจ"),
    "pass": ("Passed", "ผ่าน"),
    "fail": ("Broken", "ไม่ผ่าน"),
    "cannot_tell": ("Cannot be told", "ตัดสินไม่ได้"),
    "warning": ("Warning", "คำเตือน"),
    "effect_rejects": ("Rejects", "ทำให้ปฏิเสธ"),
    "effect_undecides": ("Leaves it undecided", "ทำให้ตัดสินไม่ได้"),
    "effect_warns": ("Warns", "เตือน"),
    "what_was_audited": ("What was audited", "สิ่งที่ตรวจ"),
    "as_it_stands": (
        "The values as the platform has them now; what a reason quotes is marked.",
        "ค่าปัจจุบันบนแพลตฟอร์ม ค่าที่เหตุผลอ้างถึงถูกเน้นไว้",
    ),
    "itself": ("The transaction itself", "ตัวธุรกรรม"),
    "record_number": ("Record {id}", "รายการ {id}"),
    "record_gone": ("This record is not there any more.", "รายการนี้ไม่มีอยู่แล้ว"),
    "quotes_nothing": ("No reason quotes it.", "ไม่มีเหตุผลใดอ้างถึง"),
    "quoted": ("quoted", "อ้างถึง"),
    "empty_value": ("empty", "ว่าง"),
    "was_then": ("quoted as {value}", "ขณะตรวจคือ {value}"),
    "why": ("Why", "เหตุผล"),
    "evidence": ("Evidence", "หลักฐาน"),
    "calls": ("Calls to the model", "การเรียกโมเดล"),
    "sent": ("Sent", "ส่งเมื่อ"),
    "outcome": ("Outcome", "ผล"),
    "seconds": ("Seconds", "วินาที"),
    "no_calls": ("No call is kept of it (calls are kept 90 days).", "ไม่ได้เก็บการเรียกไว้ (เก็บไว้ 90 วัน)"),
    "deleted_note": ("This transaction was deleted.", "ธุรกรรมนี้ถูกลบแล้ว"),
    "decided_note": ("A person decided this transaction.", "ธุรกรรมนี้มีผู้ตัดสินแล้ว"),
    "broken_rules": ("Broken or untold rules", "กฎที่ไม่ผ่านหรือตัดสินไม่ได้"),
    "all_passed": ("Every rule passed.", "ผ่านทุกกฎ"),
    # -- tokens over time
    "usage": ("Tokens over time", "การใช้โทเค็น"),
    "last_days": ("Last {n} days", "{n} วันที่ผ่านมา"),
    "usage_summary": (
        "{total} tokens in {days} days; the most on {day}: {most}.",
        "{total} โทเค็นใน {days} วัน มากที่สุดวันที่ {day}: {most}",
    ),
    "usage_none": ("No token was used in these {n} days.", "ไม่มีการใช้โทเค็นใน {n} วันนี้"),
    "input": ("Input", "ขาเข้า"),
    "cached": ("of it cached", "จากแคช"),
    "output": ("Output", "ขาออก"),
    "day": ("Day", "วัน"),
    "audited": ("Audited", "ตรวจแล้ว"),
    "as_table": ("As a table", "แสดงเป็นตาราง"),
    "show_usage": ("Show tokens over time", "แสดงการใช้โทเค็น"),
    # -- cancelling
    "cancel_title": ("Cancel batch {id}?", "ยกเลิกชุดที่ {id}?"),
    "cancel_text": (
        "What still waits is not audited and can be queued again. Verdicts that were written stay. Answers under way "
        "are paid for all the same.",
        "รายการที่ยังรอจะไม่ถูกตรวจและเข้าคิวใหม่ได้ ผลที่บันทึกแล้วจะคงอยู่ คำตอบที่กำลังรอยังคงคิดค่าใช้จ่าย",
    ),
    "cancel_yes": ("Cancel the batch", "ยกเลิกชุดนี้"),
    "cancel_no": ("Keep it running", "ไม่ยกเลิก"),
    # -- notices
    "notice_started": ("Batch {id} is queued.", "ชุดที่ {id} เข้าคิวแล้ว"),
    "notice_nothing": (
        "No transaction waits for an audit: each one is audited or queued already.",
        "ไม่มีธุรกรรมที่รอตรวจ: ทุกรายการตรวจแล้วหรืออยู่ในคิวแล้ว",
    ),
    "notice_retried": ("What failed is queued again as batch {id}.", "รายการที่ล้มเหลวเข้าคิวใหม่เป็นชุดที่ {id}"),
    "notice_no_retry": (
        "Nothing of this batch can be asked again: what failed was audited or decided meanwhile.",
        "ไม่มีรายการในชุดนี้ที่ตรวจอีกได้: รายการที่ล้มเหลวได้รับการตรวจหรือตัดสินแล้ว",
    ),
    "notice_cancelled": ("Batch {id} is cancelled.", "ยกเลิกชุดที่ {id} แล้ว"),
    "notice_signed_out": ("You are signed out.", "คุณออกจากระบบแล้ว"),
    "finished": ("Batch {id}: {status}.", "ชุดที่ {id}: {status}"),
    # -- errors
    "error_not_found_title": ("There is no such page", "ไม่พบหน้านี้"),
    "error_not_found": (
        "The batch or transaction does not exist in your organization.",
        "ไม่มีชุดหรือธุรกรรมนี้ในองค์กรของคุณ",
    ),
    "error_forged_title": ("This form cannot be accepted", "ไม่สามารถรับแบบฟอร์มนี้ได้"),
    "error_forged": (
        "It came from another site, or the page had been open for too long. Nothing was changed; open the page again.",
        "คำขอมาจากเว็บไซต์อื่น หรือเปิดหน้านี้ไว้นานเกินไป ไม่มีการเปลี่ยนแปลงใด ๆ โปรดเปิดหน้าใหม่",
    ),
    "error_refused_title": ("That cannot be done now", "ทำไม่ได้ในขณะนี้"),
    "error_ended": (
        "The batch has ended, so there is nothing to cancel.",
        "ชุดนี้สิ้นสุดแล้ว จึงไม่มีอะไรให้ยกเลิก",
    ),
    "error_held": (
        "The platform works on it at this moment. Nothing was changed; try again in a moment.",
        "แพลตฟอร์มกำลังทำงานกับรายการนี้ ไม่มีการเปลี่ยนแปลง โปรดลองอีกครั้งในอีกสักครู่",
    ),
    "error_refused": (
        "It is not possible as things stand. Nothing was changed.",
        "ทำไม่ได้ตามสถานะปัจจุบัน ไม่มีการเปลี่ยนแปลง",
    ),
    "error_broken_title": ("Something went wrong here", "เกิดข้อผิดพลาด"),
    "error_broken": (
        "The page could not be made. The reason stands in the server’s log; try again in a moment.",
        "ไม่สามารถแสดงหน้านี้ได้ สาเหตุอยู่ในบันทึกของเซิร์ฟเวอร์ โปรดลองอีกครั้งในอีกสักครู่",
    ),
    "back": ("Back to the Audit History", "กลับไปที่ประวัติการตรวจสอบ"),
    # -- fields of the platform
    "field_transaction_id": ("Transaction", "ธุรกรรม"),
    "field_transaction_method": ("Method", "วิธีบันทึก"),
    "field_weight_kg": ("Weight (kg)", "น้ำหนัก (กก.)"),
    "field_total_amount": ("Total amount", "ยอดรวม"),
    "field_transaction_date": ("Transaction date", "วันที่ทำธุรกรรม"),
    "field_arrival_date": ("Arrival date", "วันที่มาถึง"),
    "field_hazardous_level": ("Hazardous level", "ระดับอันตราย"),
    "field_treatment_method": ("Treatment", "วิธีบำบัด"),
    "field_disposal_method": ("Disposal", "วิธีกำจัด"),
    "field_notes": ("Notes", "หมายเหตุ"),
    "field_images_not_shown": ("Images (not shown to the model)", "รูปภาพ (ไม่ได้ส่งให้โมเดล)"),
    "field_vehicle_info": ("Vehicle", "ยานพาหนะ"),
    "field_driver_info": ("Driver", "คนขับ"),
    "field_origin_coordinates": ("Origin", "พิกัดต้นทาง"),
    "field_destination_coordinates": ("Destination", "พิกัดปลายทาง"),
    "field_records": ("Records", "จำนวนรายการ"),
    "field_record_id": ("Record", "รายการ"),
    "field_status": ("Status", "สถานะ"),
    "field_transaction_type": ("Type", "ประเภท"),
    "field_material": ("Material", "วัสดุ"),
    "field_material_code": ("Material code", "รหัสวัสดุ"),
    "field_unit": ("Unit", "หน่วย"),
    "field_origin_quantity": ("Quantity", "จำนวน"),
    "field_origin_weight_kg": ("Weight (kg)", "น้ำหนัก (กก.)"),
    "field_origin_price_per_unit": ("Price per unit", "ราคาต่อหน่วย"),
    # -- why a transaction was skipped
    "skip_not_found": ("there is no such transaction", "ไม่มีธุรกรรมนี้"),
    "skip_foreign": ("it belongs to another organization", "เป็นขององค์กรอื่น"),
    "skip_deleted": ("it was deleted", "ถูกลบแล้ว"),
    "skip_not_queued": ("it is not queued any more", "ไม่อยู่ในคิวแล้ว"),
    "skip_decided_by_person": ("a person decided it", "มีผู้ตัดสินแล้ว"),
    "skip_in_other_batch": ("it is in another open batch", "อยู่ในชุดอื่นที่ยังเปิดอยู่"),
    "skip_batch_withdrawn": ("its batch was withdrawn", "ชุดถูกถอนแล้ว"),
}  # fmt: skip


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._column = 1 if language == THAI else 0

    def __call__(self, name: str, **values: object) -> str:
        """The words called `name`, with these values in their places. KeyError: there are none."""
        text = TABLE[name][self._column]
        return text.format(**values) if values else text

    def of(self, kind: str, name: str) -> str:
        """The words for a code of the platform or of the queue; one that has none is spelled as it is."""
        found = TABLE.get(f"{kind}_{name}") if kind else TABLE.get(name)
        return found[self._column] if found else name.replace("_", " ")


def preferred(accept_language: str) -> str:
    """The language of ours that a browser asks for first, by its `Accept-Language`; English where it asks for none.

    Example: `th-TH,th;q=0.9,en;q=0.8` → `th`.
    """
    best, weight = ENGLISH, 0.0
    for part in accept_language.split(","):
        tag, _, parameters = part.strip().partition(";")
        language = tag.strip().lower().partition("-")[0]
        if language in LANGUAGES and (wanted := _weight(parameters)) > weight:
            best, weight = language, wanted
    return best


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
