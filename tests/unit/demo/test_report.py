"""The report stands alone, shows what it was given, and escapes it."""

from infra.demo.load import Sample
from infra.demo.report import Line, bars_plot, failover_plot, histogram_plot, render


def sample(at_s: float, step: str) -> Sample:
    return Sample(
        sent_s=at_s,
        took_ms=5.0 + at_s,
        status=200,
        items=10,
        step=step,
        region="r",
        release="x",
        home="r",
        personal=True,
    )


def test_the_page_needs_nothing_from_outside():
    plots = [
        failover_plot([sample(0.1, "fresh"), sample(1.0, "failover"), sample(1.2, "")], {"killed": 0.5}),
        histogram_plot([1.0, 2.0, 3.0, 50.0], "How soon"),
        bars_plot({"popularity": 0.036, "retrieval": 0.3}, "Quality", "HR@10"),
    ]
    lines = [
        Line("kill", "nothing <fails>", "0 of 2,000", "0", met=True),
        Line("late", "p99", "120 ms", "100", met=False),
    ]
    page = render("Atoll", "a & b", lines, plots, {"cores": 2})
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "nothing &lt;fails&gt;" in page
    assert 'class="figure met"' in page
    assert 'class="figure missed"' in page
    assert "a &amp; b" in page
