"""Axes and images to figures. Host-free: nothing here knows ComfyUI or the trainer.

Importing this loads Pillow alone; numpy and matplotlib come with the first chart, heat map or PDF.
"""

from .axes import UNLABELLED, Axis, format_value
from .cells import Cell, cells, check_distinct, count, execution_order
from .chart import Chart, loss_chart
from .chart_style import ChartStyle
from .contact_sheet import contact_sheet
from .draw import by_index, opaque, render
from .export import (
    check_latex_name,
    figure_manifest,
    latex_snippet,
    save_pdf,
    save_png,
    save_svg,
    write_manifest_csv,
    write_manifest_json,
)
from .heat_map import plan_heat_map
from .layout import Layout
from .parameters import COST_RANK, PARAMETERS, Parameter, parameter_named
from .placement import Placement
from .plan import plan_figure, plan_pages
from .style import FigureStyle
from .values import parse_values

__all__ = [
    "COST_RANK",
    "PARAMETERS",
    "UNLABELLED",
    "Axis",
    "Cell",
    "Chart",
    "ChartStyle",
    "FigureStyle",
    "Layout",
    "Parameter",
    "Placement",
    "by_index",
    "cells",
    "check_distinct",
    "check_latex_name",
    "contact_sheet",
    "count",
    "execution_order",
    "figure_manifest",
    "format_value",
    "latex_snippet",
    "loss_chart",
    "opaque",
    "parameter_named",
    "parse_values",
    "plan_figure",
    "plan_heat_map",
    "plan_pages",
    "render",
    "save_pdf",
    "save_png",
    "save_svg",
    "write_manifest_csv",
    "write_manifest_json",
]
