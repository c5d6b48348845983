// Tables: plain ones that are filled anew, and the files, which can be searched and sorted.

function fill(table, rows) {
  const body = table.tBodies[0];
  if (body.querySelector(":focus-visible")) return;  // nobody's link goes away under the fingers
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    cells.forEach((cell, column) => {
      const place = row.cells[column] ?? row.insertCell();
      if (table.tHead.rows[0].cells[column].className === "n") place.className = "n";
      if (typeof cell === "string") say(place, cell);
      else if (place.firstChild?.textContent !== cell.textContent) place.replaceChildren(cell);
    });
  });
  while (body.rows.length > rows.length) body.deleteRow(-1);
}

const link = (name) => element("a", { href: fileLink(name) }, nameText(name));

class FileTable {
  static FIRST = 100;

  constructor(table, search, said, more) {
    Object.assign(this, { table, search, said, more });
    this.entries = [];
    this.others = { entries: 0, size: 0 };
    this.sort = { key: "size", descending: true };
    this.shown = FileTable.FIRST;
    search.addEventListener("input", () => {
      said.setAttribute("aria-live", "polite");  // what was asked for is read out, what comes every second is not
      this.draw();
    });
    more.addEventListener("click", () => { this.shown = Infinity; this.draw(); });
    for (const button of table.querySelectorAll("button[data-sort]")) {
      button.addEventListener("click", () => this.sortBy(button));
    }
  }

  update(entries, others) {
    this.entries = entries;
    this.others = others;
    this.said.setAttribute("aria-live", "off");
    this.draw();
  }

  sortBy(button) {
    const key = button.dataset.sort;
    const descending = this.sort.key === key ? !this.sort.descending : key !== "name";
    this.sort = { key, descending };
    for (const head of this.table.querySelectorAll("th")) head.setAttribute("aria-sort", "none");
    button.closest("th").setAttribute("aria-sort", descending ? "descending" : "ascending");
    this.draw();
  }

  draw() {
    const wanted = this.search.value.toLowerCase();
    const { key, descending } = this.sort;
    const found = this.entries.filter((entry) => entry.name.toLowerCase().includes(wanted));
    found.sort((a, b) => (a[key] < b[key] ? -1 : a[key] > b[key] ? 1 : 0) * (descending ? -1 : 1));
    fill(this.table, found.slice(0, this.shown).map((entry) => [
      link(entry.name), bytesText(entry.size), countText(entry.hits), secondsText(entry.age_s),
      secondsText(entry.idle_s), countText(entry.readers),
    ]));
    const left = this.others.entries;
    const among = left ? `the ${countText(this.entries.length)} largest` : `${countText(this.entries.length)}`;
    say(this.said, (wanted ? `${countText(found.length)} of ${among}` : among) +
      (left ? `; ${countText(left)} others, ${bytesText(this.others.size)}, are only in the list as text` : " in the cache"));
    this.more.hidden = found.length <= this.shown;
    say(this.more, `Show all ${countText(found.length)}`);
  }
}
