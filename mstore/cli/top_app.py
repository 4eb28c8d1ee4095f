"""The terminal of `mstore top`: textual shows the frames of top_frame, asks for looks in a thread, and hears the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Footer, Static

from mstore import clock
from mstore.cli.top_frame import Line, frame
from mstore.cli.top_looks import Choice, Look, Model
from mstore.errors import MstoreError

_STYLES = {
    "": "", "title": "bold", "dim": "dim", "good": "#5fd75f", "warn": "#ffd75f", "bad": "bold #ff5f5f",
    "heat0": "#5f87af", "heat1": "#5fafaf", "heat2": "#87d75f", "heat3": "#ffd75f", "heat4": "#ff875f",
}  # fmt: skip


class TopApp(App[None]):
    """Looks every `interval_s`, unless it is paused or the look before is still under way."""

    CSS = "Screen { overflow: hidden; } #frame { width: 100%; height: 1fr; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("m", "metric(1)", "next metric"),
        Binding("M", "metric(-1)", "metric before", show=False),
        Binding("c", "cluster", "cluster"),
        Binding("p,space", "pause", "pause", key_display="p"),
    ]

    def __init__(
        self, model: Model, take: Callable[[Choice], Look], interval_s: float, utc: bool = False
    ) -> None:
        """take: asks the store, in a thread; raises MstoreError when it does not answer"""
        super().__init__()
        self.model = model
        self._take = take
        self._interval_s = interval_s
        self._utc = utc
        self._looking = False
        self._again = False
        self._asked_s = 0.0

    def compose(self) -> ComposeResult:
        yield Static(id="frame")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.set_interval(self._interval_s, self._tick)
        self.call_after_refresh(self.show)
        self._start_look()

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)

    def show(self) -> None:
        """Draw what is known now, as large as the terminal is."""
        box = self.query_one("#frame", Static)
        lines = frame(self.model, box.size.width, box.size.height, utc=self._utc)
        box.update(Content("\n").join(map(_content, lines)))

    def action_metric(self, by: int) -> None:
        self.model.next_metric(by)
        self._start_look()

    def action_cluster(self) -> None:
        self.model.next_cluster()
        self._start_look()

    def action_pause(self) -> None:
        self.model.paused = not self.model.paused
        self.show()

    def _tick(self) -> None:
        late_s = clock.monotonic_s() - self._asked_s
        if self._looking and late_s > 2 * self._interval_s:
            self.model.late_s = late_s
            self.show()
        elif not self._looking and not self.model.paused:
            self._start_look()

    def _start_look(self) -> None:
        if self._looking:
            self._again = True  # what was chosen meanwhile is looked at next
            return
        self._looking, self._again = True, False
        self._asked_s = clock.monotonic_s()
        choice = Choice(self.model.choice.cluster, self.model.choice.metric)
        self.run_worker(lambda: self._look(choice), thread=True)

    def _look(self, choice: Choice) -> None:
        """In a thread."""
        try:
            found: Look | str = self._take(choice)
        except MstoreError as error:
            found = error.message
        self.call_from_thread(self._looked, found)

    def _looked(self, found: Look | str) -> None:
        self._looking = False
        if isinstance(found, str):
            self.model.failed(found, clock.monotonic_s())
        else:
            self.model.add(found)
        self.show()
        if self._again:
            self._start_look()


def _content(line: Line) -> Any:
    return Content.assemble(*((text, _STYLES[style]) for text, style in line if text))
