"""The independent witness: what torch.profiler itself says of one stretch of a run, event by event.

Nothing of nnmem is used here.  torch.profiler follows one thread.
"""

from torch.profiler import ProfilerActivity, profile


class Witness:
    """Context manager; afterwards `events` are (size, address) in order of time, size < 0 for a free."""

    def __enter__(self):
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.profile.__enter__()
        return self

    def __exit__(self, *exception):
        self.profile.__exit__(*exception)
        found, marks = [], {}

        def walk(nodes):
            for node in nodes:
                if node.name == "[memory]":
                    found.append((node.start_time_ns, len(found), node.extra_fields.alloc_size, node.extra_fields.ptr))
                elif node.name.startswith("autograd::engine::evaluate_function"):
                    marks.setdefault("backward", node.start_time_ns)
                elif node.name.startswith("Optimizer.step#"):
                    marks.setdefault("optimizer", node.start_time_ns)
                walk(node.children)

        walk(self.profile.profiler.kineto_results.experimental_event_tree())
        found.sort(key=lambda event: event[:2])
        self.events = [(size, address) for _, _, size, address in found]
        # How many events came before the first node of backward, and before step().
        self.before = {name: sum(time < start for time, *_ in found) for name, start in marks.items()}

    def summary(self):
        """Bytes above the start: retained when backward starts, highest point before it, peak, left at the end."""
        heights, current = [0], 0
        for size, _ in self.events:
            current += size
            heights.append(current)
        split = self.before.get("backward", len(self.events))
        return {
            "events": len(self.events),
            "before": self.before,
            "retained": heights[split],
            "forward_peak": max(heights[: split + 1]),
            "peak": max(heights),
            "left": heights[-1],
            "alloc_bytes": sum(size for size, _ in self.events if size > 0),
        }
