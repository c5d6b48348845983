// Numbers and names for people.

const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

function bytesText(size) {
  if (size < 1024) return `${size} B`;
  let amount = size / 1024, unit = 0;
  while (amount >= 999.5 && unit < UNITS.length - 1) { amount /= 1024; unit += 1; }
  return `${Number(amount.toPrecision(3))} ${UNITS[unit]}`;
}

const countText = (count) => count.toLocaleString("en");

const counted = (count, what) => `${countText(count)} ${what}${count === 1 ? "" : "s"}`;

function secondsText(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${Number((seconds * 1e6).toPrecision(3))} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

const percentText = (share) => share === null ? "–" : `${(share * 100).toFixed(1)} %`;

const FORMS = { bytes: bytesText, seconds: secondsText, count: countText };

// A name as it is read, not as its control characters and those that turn the direction of writing would have it.
const nameText = (name) => name.replace(/[\u0080-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

const fileLink = (name) => "/" + name.split("/").map(encodeURIComponent).join("/");

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);

// Touch the document only where it says something else now: a screen reader repeats what is written again.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
