// Rates over the last minutes, ten at most: one line each, time from left to right.

const SPAN_S = 600;
const NEW_SVG = "http://www.w3.org/2000/svg";

const minutesText = (minutes) => minutes === 1 ? "minute" : `${minutes} minutes`;

// How many minutes it takes to show all of `rates`.
const minutesOf = (rates) =>
  Math.min(SPAN_S / 60, Math.max(1, rates.length && Math.ceil((rates.at(-1)[0] - rates[0][0]) / 60)));

class Chart {
  // `column` of the rates; `text` says a value; the line ends at `most`, or at the largest value there is.
  constructor(figure, column, text, most = 0) {
    this.column = column;
    this.text = text;
    this.most = most;
    this.label = figure.querySelector("b");
    this.title = figure.querySelector("figcaption").firstChild.textContent.trim();
    this.svg = document.createElementNS(NEW_SVG, "svg");
    this.path = document.createElementNS(NEW_SVG, "path");
    this.svg.setAttribute("viewBox", `0 0 ${SPAN_S} 100`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.svg.append(this.path);
    this.peak = element("small");
    figure.append(this.peak, this.svg);
  }

  update(rates, minutes) {
    const values = rates.map((row) => row[this.column]).filter((value) => value !== null);
    const most = Math.max(this.most, ...values);
    const latest = rates.length ? rates.at(-1) : null;
    const now = latest && latest[this.column] !== null ? this.text(latest[this.column]) : "–";
    say(this.label, now);
    say(this.peak, values.length && !this.most ? this.text(most) : "");
    this.svg.setAttribute("aria-label", values.length
      ? `${this.title}: now ${now}, at most ${this.text(Math.max(...values))} in the last ${minutesText(minutes)}`
      : `${this.title}: nothing yet`);
    let path = "", drawing = false;
    for (const row of rates) {
      const value = row[this.column];
      if (value === null) { drawing = false; continue; }
      const x = SPAN_S - (latest[0] - row[0]) * SPAN_S / (60 * minutes);
      const y = 97 - (most > 0 ? 94 * (value / most) : 0);
      path += `${drawing ? "L" : "M"}${x} ${y.toFixed(1)}${drawing ? "" : `h.5`}`;
      drawing = true;
    }
    this.path.setAttribute("d", path);
  }
}
