"""The screen of ``suite top``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Final

import anyio
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from suite.cli.explain import explained
from suite.cli.top import cells
from suite.cli.top.now import NOTHING, Now, Watch
from suite.client import Client
from suite.errors import SuiteError
from suite.identity import boot_clock

Rows = Mapping[str, tuple[Text, ...]]
_EXPLAINED_EVENTS: Final = 10


class Table(DataTable[Text]):
    """A table whose rows have keys, and whose cursor stays with its row."""

    def __init__(self, *columns: str, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self._names = columns
        self._shown: dict[str, tuple[Text, ...]] = {}

    def on_mount(self) -> None:
        """Add the columns."""
        for name in self._names:
            self.add_column(name, key=name)

    @property
    def selected(self) -> str | None:
        """The key of the row with the cursor; None in an empty table."""
        return list(self._shown)[self.cursor_row] if self._shown else None

    def show(self, rows: Rows) -> None:
        """Show these rows in this order; what has not changed is not drawn again."""
        if list(rows) == list(self._shown):
            for key, row in rows.items():
                for name, before, cell in zip(self._names, self._shown[key], row, strict=True):
                    if before != cell:
                        self.update_cell(key, name, cell, update_width=True)
        else:
            self._replace(rows)
        self._shown = dict(rows)

    def _replace(self, rows: Rows) -> None:
        selected, place = self.selected, self.cursor_row
        self.clear()
        for key, row in rows.items():
            self.add_row(*row, key=key)
        keys = list(rows)
        is_there = selected is not None and selected in rows
        self.move_cursor(row=keys.index(selected or "") if is_there else min(place, len(keys) - 1))


class Question(ModalScreen[bool]):
    """Asks before something is done that ends the work of others."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape", "dismiss(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Show the question."""
        yield Static(f"{self._text}  y: yes, n: no", classes="box", markup=False)


class Page(ModalScreen[None]):
    """A text to be read."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Close")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Show the text, longer than the screen if it is."""
        with VerticalScroll(classes="box"):
            yield Static(self._text, markup=False)
        yield Footer()


class Top(App[None]):
    """What the fleet does now. Raises nothing: what goes wrong is shown, and looked at again."""

    TITLE = "suite top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; text-style: bold; padding: 0 1; }
    #trouble { color: $text-error; padding: 0 1; }
    #nodes { height: auto; max-height: 30%; }
    #models { height: 1fr; }
    #nothing { display: none; color: $text-muted; padding: 0 1; }
    #generations { height: auto; max-height: 30%; }
    #filter { display: none; }
    Question, Page { align: center middle; }
    .box { width: 90%; height: auto; max-height: 80%; padding: 1 2; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "load", "Load"),
        Binding("u", "unload", "Unload"),
        Binding("p", "pin", "Pin"),
        Binding("d", "drain", "Drain"),
        Binding("c", "cancel", "Cancel"),
        Binding("e", "explain", "Why"),
        Binding("slash", "filter", "Filter"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, client: Client, *, interval: float) -> None:
        """`interval`: seconds between two looks."""
        super().__init__()
        self._client = client
        self._interval = interval
        self._watch = Watch(client, clock=boot_clock)
        self._now: Now = NOTHING
        self._wanted = ""

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield Static("looking at the service", id="summary", markup=False)
        yield Static("", id="trouble", markup=False)
        yield Table(*cells.NODE_COLUMNS, id="nodes")
        yield Table(*cells.MODEL_COLUMNS, id="models")
        yield Static("", id="nothing", markup=False)
        yield Table(*cells.GENERATION_COLUMNS, id="generations")
        yield Input(placeholder="a part of a model's id", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._table("models").focus()
        self.run_worker(self._look_forever(), group="look")

    async def _look_forever(self) -> None:
        while True:
            try:
                self._now = await self._watch.look()
            except SuiteError as error:
                self._tell_trouble([str(error)])
            else:
                self._show()
            await anyio.sleep(self._interval)

    def _show(self) -> None:
        now = self._now
        self.query_one("#summary", Static).update(cells.summary(now))
        self._tell_trouble(now.problems)
        self._table("nodes").show(cells.node_rows(now))
        self._show_models()
        generations = self._table("generations")
        generations.show(cells.generation_rows(now))
        generations.display = bool(now.generations)

    def _show_models(self) -> None:
        self._table("models").show(cells.model_rows(self._now, self._wanted))
        nothing, told = self.query_one("#nothing", Static), cells.nothing_found(self._now, self._wanted)
        nothing.update(told)
        nothing.display = bool(told)

    def _tell_trouble(self, problems: Sequence[str]) -> None:
        trouble = self.query_one("#trouble", Static)
        trouble.update("\n".join(problems))
        trouble.display = bool(problems)

    def _table(self, id: str) -> Table:
        return self.query_one(f"#{id}", Table)

    # --- actions ------------------------------------------------------------------------------------------

    def action_load(self) -> None:
        """Load the model with the cursor."""
        if (id := self._table("models").selected) is not None:
            self._do(f"{id} is loaded", partial(self._client.load_model, id))

    def action_unload(self) -> None:
        """Unload it, after a question."""
        if (id := self._table("models").selected) is not None:
            unload = partial(self._client.unload_model, id)
            self._ask(f"Unload {id}?", partial(self._do, f"{id} is unloaded", unload))

    def action_pin(self) -> None:
        """Keep it loaded, or do so no more."""
        if (id := self._table("models").selected) is None:
            return
        if self._now.models[id].pinned:
            self._do(f"{id} is not pinned any more", partial(self._client.unpin_model, id))
        else:
            self._do(f"{id} is pinned", partial(self._client.pin_model, id))

    def action_drain(self) -> None:
        """Take the node with the cursor out of service, after a question; or have it take work again."""
        if (key := self._table("nodes").selected) is None:
            return
        name = cells.node_of(key)
        drain = partial(self._client.drain_node, name, wait=False)
        if any(node.name == name and node.state == "draining" for node in self._now.nodes):
            self._do(f"{name} takes work again", partial(drain, undo=True))
        else:
            self._ask(f"Drain {name}?", partial(self._do, f"{name} gets no new work", drain))

    def action_cancel(self) -> None:
        """End the generation with the cursor."""
        if (id := self._table("generations").selected) is not None:
            self._do(f"{id} is cancelled", partial(self._client.cancel_generation, id))

    def action_explain(self) -> None:
        """Say why the model with the cursor is where it is."""
        if (id := self._table("models").selected) is not None:
            self.run_worker(self._explain(id), group="explain", exclusive=True)

    def action_filter(self) -> None:
        """Show only some of the models."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: what is typed next belongs to it

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Show the models that are wanted while they are typed."""
        self._wanted = changed.value
        self._show_models()

    def on_input_submitted(self) -> None:
        """Go back to the models."""
        self._leave_filter()

    def on_key(self, key: events.Key) -> None:
        """Escape shows all models again."""
        field = self.query_one("#filter", Input)
        if key.key == "escape" and field.display:
            field.value = ""
            self._leave_filter()

    def _leave_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = bool(field.value)
        self.set_focus(self._table("models"))  # at once here, too

    def _ask(self, question: str, do: Callable[[], None]) -> None:
        def answered(is_wanted: bool | None) -> None:
            if is_wanted:
                do()

        self.push_screen(Question(question), answered)

    def _do(self, done: str, ask: Callable[[], Awaitable[object]]) -> None:
        """Have the service do something, and say so when it is done, or why it is not."""

        async def asked() -> None:
            try:
                await ask()
            except SuiteError as error:
                self.notify(str(error), severity="error", markup=False)
            else:
                self.notify(done, markup=False)

        self.run_worker(asked(), group="actions")

    async def _explain(self, id: str) -> None:
        try:
            reply = await self._client.explain(id, limit=_EXPLAINED_EVENTS)
        except SuiteError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.push_screen(Page("\n".join(line for line, _ in explained(reply))))
