"""One page, one table style, one figure style: every report of the suite is written with these.

    policies = Table("Mean over patients, best first", ("Policy", "Severity"), rows, order=1)
    curve = draw_figure("Severity over time", draw, "Line chart: ...")
    write_page("report.html", Page("Evaluation", (Section("Results", policies), Section("Figures", curve))))

A page needs no script and asks for nothing from elsewhere; it is light or dark as the reader's system is, and fits a
phone. Figures need matplotlib (extra `report`); without it a page has the descriptions in their place, and says so.
"""
