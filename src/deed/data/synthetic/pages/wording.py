"""Everything a page or a question says that is not a value: labels, headings, sentences, thanks, question wordings.

The words are few and shared by all layouts, known and unseen, so that what differs from page to page is the arrangement
and the values. `{N}` stands for the kind of document ("Invoice"), `{n}` for it in lower case, `{P}` and `{p}` for the
kind of place ("Table"), `{key}` for a value.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .values import KEYS

NOUNS = ("Invoice", "Receipt", "Order", "Ticket", "Statement", "Form", "Delivery", "Quote", "Letter", "Pass")
PLACES = ("Table", "Room", "Seat", "Desk", "Gate", "Bay")

LABELS: dict[str, tuple[str, ...]] = {
    "number": ("{N} No.", "{N} number", "{N} #", "Number", "No.", "Document No."),
    "date": ("Date", "{N} date", "Issued", "Date issued", "Issue date"),
    "due": ("Due", "Due date", "Pay by", "Payment due", "Deadline"),
    "total": ("Total", "Amount due", "Grand total", "Total due", "Total amount"),
    "time": ("Time", "At", "Hour"),
    "method": ("Paid by", "Payment", "Payment method", "Paid with", "Method"),
    "place": ("{P}", "{P} No.", "{P} number"),
    "reference": ("Reference", "Your ref.", "Ref.", "Reference No."),
    "account": ("Account", "Account No.", "Account number", "Bank account"),
    "birth": ("Date of birth", "Birth date", "Born"),
    "weight": ("Weight", "Gross weight", "Total weight"),
    "tax": ("Tax", "VAT", "Sales tax", "Tax amount"),
    "subtotal": ("Subtotal", "Net amount", "Net", "Sum"),
    "clerk": ("Clerk", "Served by", "Cashier", "Agent"),
    "phone": ("Phone", "Tel.", "Telephone", "Phone No."),
    "name": ("Name", "Customer", "Customer name", "Full name", "Client"),
    "title": ("Title", "Position", "Job title"),
    "department": ("Department", "Dept.", "Division"),
    "city": ("City", "Town"),
    "company": ("Company", "Company name", "From", "Issued by", "Supplier"),
    "street": ("Street", "Address", "Street address"),
    "email": ("Email", "E-mail", "Email address"),
}
ITEM_HEADS = ("Item", "Description", "Product", "Article")
QUANTITY_HEADS = ("Qty", "Quantity", "Units", "Count")
PRICE_HEADS = ("Price", "Amount", "Cost")

HEADINGS: dict[str, tuple[str, ...]] = {
    "Invoice": ("INVOICE", "Invoice", "Tax invoice", "Sales invoice"),
    "Receipt": ("RECEIPT", "Receipt", "Cash receipt", "Sales receipt"),
    "Order": ("ORDER", "Purchase order", "Order form", "Order confirmation"),
    "Ticket": ("TICKET", "Parking ticket", "Ticket", "Visitor ticket"),
    "Statement": ("STATEMENT", "Account statement", "Statement of account", "Pay statement"),
    "Form": ("FORM", "Application form", "Registration form", "Personal data"),
    "Delivery": ("DELIVERY NOTE", "Delivery note", "Packing list"),
    "Quote": ("QUOTE", "Price list", "Price quote", "Offer"),
    "Letter": ("Confirmation", "Notice", "Order confirmation", "Good news"),
    "Pass": ("BOARDING PASS", "Day pass", "Travel pass"),
}
UNSEEN_HEADINGS: dict[str, tuple[str, ...]] = {  # wholly other headings, in words that known layouts have too
    "Invoice": ("CREDIT NOTE", "Payment notice"),
    "Pass": ("TRAVEL TICKET", "Visitor pass"),
    "Order": ("SERVICE REPORT", "Order data"),
    "Statement": ("GUEST ACCOUNT", "Sales statement"),
}
SECTIONS = {
    "parties": ("Bill to", "Sold to", "Ship to", "Customer data"),
    "details": ("Details", "Document data", "Summary"),
    "payment": ("Payment data", "Payment details", "How to pay"),
    "person": ("Personal data", "About you", "Contact"),
}
THANKS = (
    "Thank you for your business!",
    "Thank you for your visit!",
    "Thank you",
    "Please come again",
    "Have a nice day!",
    "We hope to see you soon",
)
TERMS = (
    "Please keep this {n} for your records.",
    "Goods remain our property until paid in full.",
    "No refund without this {n}.",
    "Terms and conditions apply.",
    "All prices include tax.",
    "Please pay on time.",
    "Questions? Call us or write to us.",
    "This {n} is valid without signature.",
    "Returns are accepted within 30 days.",
    "Not valid for resale.",
    "Office copy",
    "Customer copy",
    "Page 1 of 1",
)
GREETINGS = ("Dear customer,", "Good day,", "Hello,", "To whom it may concern,")
CLOSINGS = ("With kind regards", "Best wishes", "Yours sincerely", "Kind regards")
SENTENCES = (
    "Your {n} has the number {number}.",
    "It was issued on {date}.",
    "Please pay by {due}.",
    "The total is {total}.",
    "Please come at {time}.",
    "You paid by {method}.",
    "Please go to {p} {place}.",
    "Please quote the reference {reference}.",
    "The account is {account}.",
    "The weight is {weight}.",
    "You were served by {clerk}.",
    "For questions call {phone}.",
    "This {n} is for {name}.",
    "The department is {department}.",
    "It was sent by {company}.",
    "The street is {street}.",
    "The city is {city}.",
    "Write to {email}.",
)
JOINT_SENTENCES = (
    "Your {n} {number} of {date} was sent to {name}.",
    "We confirm your {n} {number} of {date}.",
    "Please pay {total} by {due}.",
    "The total of {total} is due on {due}.",
    "We received {total} by {method} on {date}.",
    "It was sent to {street}, {city}.",
    "Please pay {total} to account {account} by {due}.",
    "Call {phone} or write to {email}.",
    "Our reference is {reference} and the {n} number is {number}.",
)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "number": ("what is the {n} number?", "which number does the {n} have?", "what is the document number?"),
    "date": ("what is the {n} date?", "when was the {n} issued?", "what is the date?"),
    "due": ("when is the payment due?", "what is the due date?", "by when must it be paid?"),
    "total": ("what is the total?", "what is the total amount?", "how much is due in total?"),
    "time": ("what is the time?", "at what time?", "what time is printed?"),
    "method": ("how was it paid?", "what is the payment method?", "with what was it paid?"),
    "place": ("which {p} is it?", "what is the {p} number?", "what is the {p}?"),
    "reference": ("what is the reference?", "what is the reference number?", "which reference is given?"),
    "account": ("what is the account?", "what is the account number?", "which account is given?"),
    "birth": ("what is the date of birth?", "when was the person born?", "what is the birth date?"),
    "weight": ("what is the weight?", "how heavy is it?", "what weight is given?"),
    "tax": ("how much is the tax?", "what is the tax amount?", "what is the tax?"),
    "subtotal": ("what is the subtotal?", "how much is it before tax?", "what is the net amount?"),
    "clerk": ("who is the clerk?", "who served the customer?", "what is the name of the clerk?"),
    "phone": ("what is the phone number?", "what is the telephone number?", "which number can i call?"),
    "name": ("what is the name?", "what is the name of the customer?", "for whom is the {n}?"),
    "title": ("what is the job title?", "what is the position?", "what is the title of the person?"),
    "department": ("what is the department?", "which department is it?", "which division is given?"),
    "city": ("what is the city?", "which city is given?", "in which town is it?"),
    "company": ("what is the company?", "which company issued the {n}?", "what is the name of the company?"),
    "street": ("what is the street?", "what is the street address?", "which street is given?"),
    "email": ("what is the email address?", "what is the email?", "to which email can i write?"),
}
ROW_QUESTIONS: dict[str, tuple[str, ...]] = {
    "price": ("what is the price of {item}?", "how much is {item}?", "what does {item} cost?"),
    "quantity": ("how many {item}?", "what is the quantity of {item}?", "how many units of {item}?"),
}
ALL_QUESTIONS = ("what are all the fields?", "list the fields.", "give the fields as json.")

_PIECE = re.compile(r"[^\W\d_]+|[^\w\s]")


def pieces(text: str) -> list[str]:
    """Whole words and single punctuation marks: "Invoice No.:" is "Invoice", "No", ".", ":"."""
    return _PIECE.findall(text)


@lru_cache(maxsize=64)
def sentence_keys(sentence: str) -> tuple[str, ...]:
    """The keys a sentence says: "Please pay by {due}." has "due"."""
    return tuple(key for key in re.findall(r"\{(\w+)\}", sentence) if key in KEYS)


def vocabulary_words() -> list[str]:
    """Every word and punctuation mark of labels, headings, sentences and questions, and the JSON keys; sorted, unique.

    Labels count in small and in capital letters, as pages print both; values and item names are not in it.
    """
    printed = [*(label for labels in LABELS.values() for label in labels), *ITEM_HEADS, *QUANTITY_HEADS, *PRICE_HEADS]
    printed += [text.upper().replace("{N}", "").replace("{P}", "") for text in printed]
    printed += [noun.upper() for noun in (*NOUNS, *PLACES)]
    for group in (HEADINGS, UNSEEN_HEADINGS, SECTIONS, QUESTIONS, ROW_QUESTIONS):
        printed += [text for texts in group.values() for text in texts]
    printed += [*THANKS, *TERMS, *GREETINGS, *CLOSINGS, *SENTENCES, *JOINT_SENTENCES, *ALL_QUESTIONS]
    plain = [re.sub(r"\{\w+\}", " ", text) for text in printed]
    plain += [word for noun in (*NOUNS, *PLACES) for word in (noun, noun.lower())]
    return sorted({*KEYS, *(piece for text in plain for piece in pieces(text)), *'{}":,'})
