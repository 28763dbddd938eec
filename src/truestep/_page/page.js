"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const buttons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]];
  const config = {responsive: true, displaylogo: false, modeBarButtons: buttons};
  const hidden = new Set();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Page colours, light or dark, put into a copy of a figure: text, grid, and whatever is drawn in "ink".
  const themed = (figure) => {
    const copy = structuredClone(figure);
    const layout = Object.assign(copy.layout, {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)"});
    layout.font = {family: tone("--sans"), size: 12, color: tone("--text")};
    layout.hoverlabel = {align: "left", bgcolor: tone("--card"), bordercolor: tone("--rule"), font: {color: tone("--text")}};
    layout.modebar = {bgcolor: "rgba(0,0,0,0)", color: tone("--soft"), activecolor: tone("--text")};
    layout.xaxis.unifiedhovertitle ??= {text: "step %{x:,d}"};
    for (const key of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      const axis = layout[key];
      axis.gridcolor = tone("--grid");
      axis.linecolor = tone("--rule");
      axis.title = Object.assign({font: {color: tone("--soft"), size: 12}}, axis.title);
      axis.zerolinecolor = tone("--soft");
      axis.tickfont = {color: tone("--soft")};
    }
    for (const trace of copy.data) {
      if (trace.line && trace.line.color === "ink") trace.line.color = tone("--text");
      if (hidden.has(trace.meta)) trace.visible = false;
      if (trace.marker && trace.line) trace.marker.color = trace.line.color;
      if (trace.colorbar) {
        trace.colorbar.tickfont = {color: tone("--soft")};
        trace.colorbar.title.font = {color: tone("--soft"), size: 12};
      }
    }
    return copy;
  };

  const draw = () => {
    for (const [id, figure] of Object.entries(figures)) {
      const {data, layout} = themed(figure);
      Plotly.react(id, data, layout, config);
    }
  };

  for (const chip of document.querySelectorAll("button.chip")) {
    chip.addEventListener("click", () => {
      const layer = Number(chip.dataset.layer);
      const off = !hidden.delete(layer);
      if (off) hidden.add(layer);
      chip.setAttribute("aria-pressed", String(!off));
      draw();
    });
  }
  dark.addEventListener("change", draw);
  draw();
})();
