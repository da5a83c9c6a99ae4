"use strict";
(() => {
  const form = document.getElementById("filters");
  const status = document.getElementById("status");
  const sections = [...document.querySelectorAll("section[data-group]")];
  const rowsOf = (section) => [...section.querySelectorAll("tbody tr")];
  const value = (row, column) =>
    column === 0 ? row.dataset.name.toLowerCase() : parseFloat(row.cells[column].dataset.v ?? "NaN");

  // Columns are counted along the second row of the head; the method's cell spans both rows and comes first.
  const headsOf = (table) => [...table.tHead.rows[0].querySelectorAll("[rowspan]"), ...table.tHead.rows[1].cells];

  function sort(table, heads, column) {
    const head = heads[column];
    const now = head.getAttribute("aria-sort");
    const first = head.hasAttribute("data-down") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = now === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const compare = (a, b) => {
      const x = value(a, column), y = value(b, column);
      if (column > 0 && (Number.isNaN(x) || Number.isNaN(y))) return Number.isNaN(x) - Number.isNaN(y);
      return x < y ? -sign : x > y ? sign : a.dataset.n - b.dataset.n;
    };
    body.append(...[...body.rows].sort(compare));
    for (const h of heads) h.setAttribute("aria-sort", h === head ? order : "none");
    status.textContent = `Sorted by ${head.textContent.trim()}, ${order}.`;
  }

  function filter() {
    const want = Object.fromEntries(new FormData(form));
    const text = want.text.trim().toLowerCase();
    let shown = 0, all = 0;
    for (const section of sections) {
      let here = 0;
      for (const row of rowsOf(section)) {
        const d = row.dataset;
        const keep = (!want.data || d.data === want.data) && (!want.scope || d.scope === want.scope) &&
          (!want.timing || d.timing === want.timing) && (!want.verified || "verified" in d) &&
          d.name.toLowerCase().includes(text);
        row.hidden = !keep;
        mark(section, d.n, "off", !keep);
        here += keep;
        all += 1;
      }
      section.hidden = here === 0;
      shown += here;
    }
    status.textContent = shown ? `${shown} of ${all} entries shown.` : "No entry fits; clear the filters.";
  }

  // Elements of entry n in a section's figures have ids that contain "-e<n>-".
  function mark(section, n, name, on) {
    for (const part of section.querySelectorAll(`figure [id*="-e${n}-"]`)) part.classList.toggle(name, on);
  }

  for (const section of sections) {
    const table = section.querySelector("table");
    const heads = headsOf(table);
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      button.disabled = false;
      button.addEventListener("click", () => sort(table, heads, column));
    });
    // The row under the pointer, or with the focus, stands out in the figures.
    const single = (row, on) => {
      for (const other of rowsOf(section)) if (other !== row) mark(section, other.dataset.n, "faint", on);
    };
    for (const row of rowsOf(section)) {
      row.addEventListener("mouseenter", () => single(row, true));
      row.addEventListener("mouseleave", () => single(row, false));
      row.addEventListener("focusin", () => single(row, true));
      row.addEventListener("focusout", () => single(row, false));
    }
  }
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter(); // a browser may have kept the filters of an earlier visit
})();
