"use strict";

// Tables sort by the column whose header is pressed; a second press turns the order round.
const order = new Intl.Collator(undefined, { numeric: true });

function compare(a, b) {
  const [x, y] = [parseFloat(a), parseFloat(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? order.compare(a, b) : x - y;
}

function sort(table, column, descending) {
  const text = (row) => row.cells[column].textContent;
  const rows = [...table.tBodies[0].rows];
  const [filled, empty] = [rows.filter((row) => text(row)), rows.filter((row) => !text(row))];
  filled.sort((a, b) => (descending ? -1 : 1) * compare(text(a), text(b)));
  table.tBodies[0].append(...filled, ...empty);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of headers) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(table, column, descending);
  }));
}

// A plan that is pointed at, in a plot or in the table, stands out in both; plots say its figures.
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const REACH = 24; // pixels around a point

function light(section, row) {
  for (const lit of section.querySelectorAll(".on")) lit.classList.remove("on");
  if (row === null) return;
  for (const found of section.querySelectorAll(`[data-row="${row}"]`)) found.classList.add("on");
}

function fill(figures) {
  const [[, plan], ...others] = figures;
  const title = document.createElement("b");
  title.textContent = plan;
  tip.replaceChildren(title, ...others.filter(([, value]) => value).map((figure) => {
    const line = document.createElement("div");
    line.append(...figure.map((text) => {
      const part = document.createElement("span");
      part.textContent = text;
      return part;
    }));
    return line;
  }));
}

let pointed = null; // the point that the tip is of

function place() {
  const box = pointed.getBoundingClientRect();
  const [wide, high] = [document.documentElement.clientWidth, document.documentElement.clientHeight];
  const right = box.right + 8 + tip.offsetWidth > wide ? box.left - 8 - tip.offsetWidth : box.right + 8;
  const below = Math.min(box.bottom + 8, high - tip.offsetHeight - 4);
  tip.style.left = `${Math.max(4, Math.min(right, wide - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, below)}px`;
}

document.querySelectorAll("section").forEach((section, number) => {
  const hide = () => {
    pointed = null;
    tip.hidden = true;
    light(section, null);
  };
  const show = (point) => {
    light(section, point.dataset.row);
    fill(data[number][point.dataset.row]);
    pointed = point;
    tip.hidden = false;
    place();
  };
  for (const chart of section.querySelectorAll("svg.chart")) {
    const points = [...chart.querySelectorAll(".point")];
    points.sort((a, b) => a.getAttribute("x") - b.getAttribute("x"));
    const distance = (point, event) => {
      const box = point.getBoundingClientRect();
      return Math.hypot((box.left + box.right) / 2 - event.clientX, (box.top + box.bottom) / 2 - event.clientY);
    };
    const seek = (event) => {
      const near = points.map((point) => [distance(point, event), point]).sort((a, b) => a[0] - b[0])[0];
      if (near[0] <= REACH) show(near[1]);
      else hide();
    };
    let at = -1;
    chart.addEventListener("pointermove", seek);
    chart.addEventListener("pointerdown", seek);
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      at = (Math.max(at, step < 0 ? 0 : -1) + step + points.length) % points.length;
      show(points[at]);
    });
  }
  for (const row of section.querySelectorAll("tbody tr")) {
    row.addEventListener("pointerenter", () => light(section, row.dataset.row));
    row.addEventListener("pointerleave", () => light(section, null));
  }
});
addEventListener("scroll", () => {
  if (pointed) place();
}, { passive: true });
