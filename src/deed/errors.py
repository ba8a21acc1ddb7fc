"""Every error that deed raises on its own account, and its one warning of consequence."""

from __future__ import annotations


class CalibrationError(ValueError):
    """The calibration set cannot support the promise; the message says how many examples it takes."""


class DeedConfigError(ValueError):
    """A field of `DeedConfig` (or its saved form) that cannot be used; the message names the field and the fix."""


class DeedLoadError(ValueError):
    """A folder that does not hold a deed model, or holds a damaged one; the message names file and fix."""


class ExitsCostMore(UserWarning):
    """Early exit saves no time with this model, within the drop of score allowed."""


class DataError(ValueError):
    """Data that cannot be read; the message names file, line or field, and the fix."""


class MissingPictureError(DataError):
    """The picture that an example of a data set is about is not there."""


class SkippedPictures(UserWarning):
    """Examples of a data set were left out because their pictures are missing, as was asked."""


class UnknownLetters(UserWarning):
    """Answers hold letters that a tokenizer cannot write; a model cannot learn to answer them."""


class ServingError(RuntimeError):
    """A request that a scheduler could not answer; the classes below say why."""


class QueueFull(ServingError):
    """As many requests wait as may; try again after `retry_after_s` seconds.

    Args:
        message: for people.
        retry_after_s: when there will be room, by the throughput measured so far.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestTooLarge(ServingError, ValueError):
    """A request whose keys and values can never fit the cache budget; the message says how large both are."""


class RequestCancelled(ServingError):
    """A request was cancelled, by its ticket or because the client is gone."""


class DeadlinePassed(ServingError):
    """A request's deadline passed before its answer was complete."""


class SchedulerClosed(ServingError):
    """The scheduler takes no more requests, or was closed before this one was answered."""
