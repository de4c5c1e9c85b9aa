"""What the acts share: where things lie, how commands are run, what has been shown so far."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.demo.callers import read_users
from infra.demo.report import Line, Plot
from infra.local.tiers import tier_python
from infra.local.world import World
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.progress import Progress
from infra.plumbing.tokens import issue_token

PACE_S = 0.2
"""How often a bar moves while a scene waits."""


class CommandFailedError(AtollError):
    """A command of the story did not exit 0."""


@dataclass(kw_only=True)
class Play:
    """The state of one run of the demo. Acts read it, do their part, and add lines, plots and figures."""

    root: Path
    work: Path
    clock: Clock
    progress: Progress
    tls: bool = False
    """Whether the world speaks TLS."""
    world: World | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)
    secrets: dict[str, list[str]] = field(default_factory=dict)

    @property
    def dataset(self) -> Path:
        """The plain dataset folder."""
        return self.work / "dataset"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.work / "model"

    @property
    def bundles(self) -> Path:
        """Built releases, one folder each."""
        return self.work / "bundles"

    @property
    def repository(self) -> Path:
        """The signed repository that regions pull from."""
        return self.work / "repository"

    @property
    def keys(self) -> Path:
        """The repository's signing keys."""
        return self.work / "release-keys"

    @property
    def running_world(self) -> World:
        """The world, once it is up.

        Raises:
            CommandFailedError: an act that needs the world comes before it.
        """
        if self.world is None:
            raise CommandFailedError("the world is not up yet.")
        return self.world

    def show(self, line: Line) -> None:
        """Say one line of the story and keep it for the table."""
        self.lines.append(line)
        mark = {True: "ok", False: "MISSED", None: "-"}[line.met]
        sys.stderr.write(f"  {mark:6} {line.proved}: {line.figure}\n")
        sys.stderr.flush()

    def report_resources(self, seconds: float, seconds_goal: float, peak_mb: float, memory_goal_mb: float) -> None:
        """The last two lines of the story: what it took."""
        self.show(
            Line("demo", "everything after the installs", f"{seconds:.0f} s", f"<= {seconds_goal:.0f} s",
                 met=seconds <= seconds_goal)
        )  # fmt: skip
        self.show(
            Line("demo", "all processes together at most", f"{peak_mb:,.0f} MB", f"<= {memory_goal_mb:,.0f} MB",
                 met=peak_mb <= memory_goal_mb)
        )  # fmt: skip

    def table(self) -> str:
        """The closing table as text."""
        rows = [("act", "what is proved", "figure", "goal", "")] + [
            (line.act, line.proved, line.figure, line.goal, {True: "met", False: "MISSED", None: ""}[line.met])
            for line in self.lines
        ]
        widths = [min(max(len(row[column]) for row in rows), 70) for column in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def calls_to_try(self) -> list[str]:
        """What to type at a world that was left running."""
        world = self.running_world
        region = world.configuration.region_names[0]
        (user, *_) = read_users(self.dataset)[region]
        token = issue_token(world.keys(region), user, clock=self.clock, life_s=24 * 3600)
        trusting = f" --cacert {world.caller_tls.ca_file}" if world.caller_tls else ""
        head = f"curl -si{trusting} -H 'Atoll-Client-Region: {region}'"
        return [
            "The world is left running. Try:",
            f"  {head} -H 'Authorization: Bearer {token}' '{world.balancer_url}/v1/recommendations/personal?n=5'",
            f"  {head} '{world.balancer_url}/v1/recommendations/trending?n=5'",
            f"  ./atoll world kill {region} --state {world.state}    # and ask again; then: world heal {region}",
            f"  ./atoll world down --state {world.state}",
        ]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the story under `name`."""
        sys.stderr.write(f"{name}\n")
        sys.stderr.flush()
        started_s = self.clock.monotonic_s()
        try:
            yield
        finally:
            self.phases_s[name] = round(self.clock.monotonic_s() - started_s, 2)

    async def pause(self, seconds: float, *, what: str, past_s: float, whole_s: float) -> float:
        """Wait, and move the bar of `what`: `past_s` of about `whole_s` seconds are over. Returns what is over then."""
        end_s = past_s + seconds
        while past_s < end_s:
            step_s = min(PACE_S, end_s - past_s)
            await asyncio.sleep(step_s)
            past_s += step_s
            self.progress.advance(min(round(past_s / PACE_S), round(whole_s / PACE_S)), round(whole_s / PACE_S), what)
        return past_s

    async def command(self, tier: str, *words: str) -> dict[str, Any]:
        """Run `atoll words...` in the environment of `tier` and return what it wrote as JSON.

        Raises:
            CommandFailedError: it did not exit 0; its own message has been shown on stderr.
        """
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "result.json"
            arguments = [
                tier_python(tier, self.root / ".atoll" / "envs"),
                "-m",
                "infra.cli",
                *words,
                "--json",
                str(target),
            ]
            process = await asyncio.create_subprocess_exec(
                *arguments, cwd=self.root, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
            )
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    await process.wait()
            if code:
                raise CommandFailedError(f"`atoll {' '.join(words[:3])} ...` exited {code}.")
            result: dict[str, Any] = json.loads(target.read_text())
            return result
