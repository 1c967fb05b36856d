"""Where a script is in the log of count_preload.c: intervals of event numbers, each with what the script was doing."""

import ctypes
import json

_events = ctypes.CDLL(None).count_preload_events
_events.restype = ctypes.c_uint64


class Marks:
    """Collects [first event, event after the last, what, name]; later ones lie inside or after earlier starts."""

    def __init__(self):
        self.intervals = []

    @staticmethod
    def now():
        return _events()

    def add(self, start, what, name=None):
        self.intervals.append([start, _events(), what, name])

    def during(self, what, name=None):
        return _Interval(self, what, name)

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.intervals, file)


class _Interval:
    def __init__(self, marks, what, name):
        self.marks, self.what, self.name = marks, what, name

    def __enter__(self):
        self.start = _events()

    def __exit__(self, *exception):
        self.marks.add(self.start, self.what, self.name)
