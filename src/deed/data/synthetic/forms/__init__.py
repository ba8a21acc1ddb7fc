"""Forms: invoices, receipts, letters, timetables and the like, laid out by an HTML engine; words and boxes from its layout."""

from .content import KINDS, Content, make_content
from .layout import LAYOUTS, UNSEEN_LAYOUTS
from .making import Form, make_form

__all__ = ["KINDS", "LAYOUTS", "UNSEEN_LAYOUTS", "Content", "Form", "make_content", "make_form"]
