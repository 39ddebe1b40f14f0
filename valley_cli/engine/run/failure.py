"""What went wrong on the engine's thread, fit to be told to callers on threads of their own. Standard library only.

A traceback holds its frames and these what they worked on: a half-loaded model, the tensors of a step. They must not
outlive the failure, nor die on a caller's thread: a tensor that is freed while Python ends takes the process with it.
"""

from __future__ import annotations

import traceback


def without_locals(error: BaseException) -> BaseException:
    """``error``, and what led to it, with its lines of code and without the values that they worked on."""
    seen: set[int] = set()
    found = [error]
    while found:
        cause = found.pop()
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        found += [other for other in (cause.__cause__, cause.__context__) if other and id(other) not in seen]
    return error


def again(error: BaseException) -> BaseException:
    """``error`` once more, for one more caller: raising it makes its traceback longer by that caller's frames.

    What cannot be made a second time with the same words is passed on itself.
    """
    try:
        twin = type(error).__new__(type(error), *error.args)
        twin.__dict__.update(error.__dict__)
        if str(twin) != str(error):
            return error
    except Exception:  # a class with arguments of its own
        return error
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)
